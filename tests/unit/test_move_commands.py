"""What ``%remote_gpu migrate`` and ``park`` do where names would be lost, whoever carries them out."""

from __future__ import annotations

import argparse

import pytest
from IPython.core.error import StdinNotImplementedError

from jupyter_gpuaas.cell import move_commands
from jupyter_gpuaas.errors import MigrationError, NamesLost


class Losing:
    """A session that would lose a name; how often it was told to move, and with what consent."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    def _lose(self, what: str, accept_loss: bool) -> None:
        self.told.append((what, accept_loss))
        if not accept_loss:
            raise NamesLost("g would be lost: g: a generator.", hint="--accept-loss does it without.")

    def migrate(self, target: str | None, *, accept_loss: bool) -> None:
        self._lose("migrate", accept_loss)

    def park(self, *, accept_loss: bool) -> None:
        self._lose("park", accept_loss)


def carry_out(line: str) -> list[tuple[str, bool]]:
    parser = argparse.ArgumentParser()
    move_commands.add_parsers(parser.add_subparsers(dest="command"))
    losing = Losing()
    try:
        move_commands.carry_out(parser.parse_args(line.split()), losing)  # type: ignore[arg-type]
    finally:
        told = losing.told
    return told


@pytest.mark.parametrize("command", ["migrate", "park"])
def test_yes_does_it_all_the_same(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt: asked.append(prompt) or " Yes")
    assert carry_out(command) == [(command, False), (command, True)]
    assert len(asked) == 1 and asked[0].startswith("g would be lost: g: a generator. ")


@pytest.mark.parametrize("answer", ["", "n", "later"])
def test_any_other_answer_leaves_the_session_alone(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: answer)
    with pytest.raises(MigrationError, match="stays as it is"):
        carry_out("migrate")


@pytest.mark.parametrize("nobody", [EOFError(), StdinNotImplementedError("no stdin"), OSError("captured")])
def test_where_nobody_can_be_asked_it_is_refused_with_what_to_do(
    nobody: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(prompt: str) -> str:
        raise nobody

    monkeypatch.setattr("builtins.input", ask)
    with pytest.raises(NamesLost) as refused:
        carry_out("park")
    assert refused.value.hint == "--accept-loss does it without."


def test_consent_given_ahead_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(prompt: str) -> str:
        raise AssertionError(prompt)

    monkeypatch.setattr("builtins.input", ask)
    assert carry_out("migrate --accept-loss") == [("migrate", True)]
