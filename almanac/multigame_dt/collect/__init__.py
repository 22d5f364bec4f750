"""Play that is worth learning from, made here: at random, by planning on copies of the console, by an agent that learns."""
