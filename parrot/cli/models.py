"""`parrot models`: make and list model directories."""

import json
from pathlib import Path

import click

from parrot.cli.output import json_option, say, seconds, write_json, write_table
from parrot.errors import ConfigError
from parrot.ports.clock import SystemClock


@click.group()
def models() -> None:
    """Model directories in Hugging Face format."""


@models.command("init")
@click.argument("preset")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1), help="Of the weights."
)
@json_option
def models_init(preset: str, directory: Path, *, seed: int, as_json: bool) -> None:
    """Write a model of random weights: its words are noise, its speed and memory are real.

    PRESET is one of those that `parrot models ls` lists.
    """
    from parrot.cli.phases import Phases
    from parrot.engine.torch.init import init_model, list_presets

    if preset not in list_presets():
        raise click.UsageError(f"no preset {preset!r}; there are {', '.join(list_presets())}")
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(
            f"{directory} is not empty", param="DIRECTORY", data={"fix": "name a new directory"}
        )
    clock = SystemClock()
    began_s = clock.now_s()
    with Phases(clock=clock) as phases:
        summary = init_model(preset, directory, seed=seed, progress=phases.of(preset))
    if as_json:
        write_json(
            {
                "preset": preset,
                "directory": str(directory),
                "seed": seed,
                "num_parameters": summary.num_parameters,
            }
        )
        return
    click.echo(str(directory))
    say(f"{summary.num_parameters / 1e6:.1f} M parameters in {seconds(clock.now_s() - began_s)}")


@models.command("ls")
@click.argument("directories", nargs=-1, type=click.Path(path_type=Path))
@json_option
def models_ls(directories: tuple[Path, ...], *, as_json: bool) -> None:
    """List presets, the models that Parrot made by itself, and the model directories in DIRECTORIES."""
    from parrot.config.directories import model_cache
    from parrot.engine.torch.init import list_presets

    places = [model_cache(), *directories]
    found = [_describe(config.parent) for place in places for config in sorted(place.glob("**/config.json"))]
    if as_json:
        write_json({"presets": list(list_presets()), "models": found})
        return
    say(f"presets for `parrot models init`: {', '.join(list_presets())}")
    write_table(
        ["MODEL", "ARCHITECTURE", "LAYERS", "HIDDEN", "WINDOW", "MiB"],
        [
            [model[key] for key in ("directory", "architecture", "layers", "hidden", "window", "mib")]
            for model in found
        ],
    )


def _describe(directory: Path) -> dict[str, object]:
    try:
        config = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError):
        config = {}
    size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    return {
        "directory": str(directory),
        "architecture": ", ".join(config.get("architectures") or ["?"]),
        "layers": config.get("num_hidden_layers"),
        "hidden": config.get("hidden_size"),
        "window": config.get("max_position_embeddings"),
        "mib": round(size / 2**20),
    }
