"""Options of the command line that take several words."""

from typing import Any

from typer.core import TyperCommand


class SpreadOptions(TyperCommand):
    """A command whose options that may be said again also take several words: --metrics psnr lpips."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        many = {name for option in self.params if option.multiple for name in option.opts}
        spread: list[str] = []
        said = ""
        for word in args:
            if word.startswith("-"):
                said = word if word in many else ""
            elif said and spread[-1] != said:
                spread.append(said)
            spread.append(word)
        return super().parse_args(ctx, spread)
