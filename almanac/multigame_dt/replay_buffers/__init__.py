"""Play that others recorded, with its frames: DQN's replay buffers, RLDS, Minari; each episode by episode, as much as fits into memory."""
