"""One Atari game as the agents of 2022 saw it: an agent's step is four frames of the console with one action held, its observation the
larger of the last two frames' greys, shrunk to 84×84 by area (Machado et al. 2018; Dopamine's `atari_lib.py`). Actions are not sticky
unless asked, so that play follows from the actions alone: every episode starts from a freshly loaded cartridge, because neither the
console's reset nor a restored state always leads to the same play (measured: Boxing, Freeway, Assault; Q*bert). The emulator itself is
the Arcade Learning Environment."""

import hashlib
import sys
import warnings
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from almanac.multigame_dt.games import ACTIONS, Game
from almanac.runtime.errors import UserError

FRAMES = 4  # of the console an agent's step lasts
SIZE = 84  # pixels, of the observation's width and height
TIME_LIMIT = 27_000  # agent's steps of an episode: 30 minutes of play

_AGAIN = "unset ALE_ROMS_DIR, or bring them all anew: pip install --force-reinstall ale-py"

Frame = UInt8[np.ndarray, "84 84"]
Screen = UInt8[np.ndarray, "210 160 3"]


class Emulator:
    """A console with one game in it.

    Args:
        game: which.
        sticky: with which probability a frame repeats the last action instead of taking the new one: 0.25 is Machado et al.'s, 0 the
            paper's.
        seed: of that chance; without it play is the same whatever the seed.
        in_colour: whether `screen` shows all that moves: many things are drawn in every other frame only.

    Raises:
        UserError: the emulator isn't installed, or its cartridge isn't the one that scores are published for.
    """

    def __init__(self, game: Game, sticky: float = 0.0, seed: int = 0, in_colour: bool = False):
        self.game, self.cartridge, self._in_colour = game, _cartridge(game.rom), in_colour
        self._ale: Any = _ale().ALEInterface()
        self._ale.setFloat("repeat_action_probability", sticky)
        self._ale.setInt("random_seed", seed)
        self.actions: tuple[int, ...] = ()
        """The actions that do something in this game, of the full set's 18; once it has been started."""

    def start(self, noops: int = 0) -> None:
        """Begin an episode: to be called before anything else.

        Args:
            noops: frames without an action before the agent's first step.
        """
        self._ale.loadROM(str(self.cartridge))
        self.actions = tuple(each.value for each in self._ale.getMinimalActionSet())
        self.score = float(sum(self._ale.act(0) for _ in range(noops)))
        self.steps = 0
        self._greys: tuple[np.ndarray, ...] = ()
        self._colours: tuple[np.ndarray, ...] = ()
        self._look()

    def step(self, action: int) -> float:
        """Hold an action for four frames, or until the game is over.

        Args:
            action: of the full set; one that this game doesn't know does nothing.

        Returns:
            the points won.
        """
        if not 0 <= action < ACTIONS:
            raise UserError(
                f"{action} is no action",
                f"actions are 0 to {ACTIONS - 1}, the full set of the Arcade Learning Environment",
            )
        held = action if action in self.actions else 0
        points = 0.0
        for frame in range(FRAMES):
            if self._ale.game_over():
                break
            points += self._ale.act(held)
            if frame == FRAMES - 2:
                self._look()
        self._look()
        self.score += points
        self.steps += 1
        return points

    def frame(self) -> Frame:
        """What the agent sees: the larger of the last two frames' greys, 84×84."""
        import cv2

        return cv2.resize(np.maximum.reduce(self._greys), (SIZE, SIZE), interpolation=cv2.INTER_AREA)

    def screen(self) -> Screen:
        """What a person sees: the console's picture in colour; with `in_colour` the brighter of the last two, as the agent's is."""
        return np.maximum.reduce(self._colours) if self._in_colour else self._ale.getScreenRGB()

    @property
    def over(self) -> bool:
        """Whether the game has ended."""
        return bool(self._ale.game_over())

    @property
    def lives(self) -> int:
        """How many lives are left; 0 in games without."""
        return int(self._ale.lives())

    def saved(self) -> tuple[Any, ...]:
        """The console as it is now, to come back to: for planning, within one episode."""
        return self._ale.cloneState(), self.score, self.steps, self._greys, self._colours

    def restore(self, state: tuple[Any, ...]) -> None:
        """Back to a saved state.

        Args:
            state: of this console.
        """
        clone, self.score, self.steps, self._greys, self._colours = state
        self._ale.restoreState(clone)

    def memory(self) -> UInt8[np.ndarray, " 128"]:
        """The console's memory, all 128 bytes of it."""
        return self._ale.getRAM()

    def _look(self) -> None:
        self._greys = (*self._greys[-1:], self._ale.getScreenGrayscale())
        if self._in_colour:
            self._colours = (*self._colours[-1:], self._ale.getScreenRGB())


def version() -> str:
    """The emulator's: what an action log was made with."""
    return f"ale-py {_ale().__version__}"


@cache
def md5(rom: str) -> str:
    """The cartridge's MD5: play is repeatable only on the same one."""
    return hashlib.md5(_cartridge(rom).read_bytes(), usedforsecurity=False).hexdigest()


@cache
def _ale() -> Any:
    try:
        import ale_py
    except ModuleNotFoundError:
        hint = "it and its cartridges are one package, under its own licence (GPL-2.0): pip install 'almanac[atari]'"
        raise UserError("the Atari emulator (ale-py) isn't installed", hint) from None
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    return ale_py


@cache
def _cartridge(rom: str) -> Path:
    _ale()
    from ale_py import roms

    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):
            path = roms.get_rom_path(rom)  # which compares it with the hash of the one that scores are published for
    except OSError as error:
        raise UserError(f"the cartridge of {rom} can't be used: {error}", _AGAIN) from None
    if path is None:
        raise UserError(f"the emulator has no cartridge of {rom}", _AGAIN)
    return Path(path)
