"""Settings: the only place that reads files and the environment.

Precedence, highest first: command-line option, `PARROT_*` variable, `./parrot.toml`, the user's own
`parrot.toml`, default. What comes out is one frozen `Settings` value made of the components' own frozen
configurations.
"""

from parrot.config.load import Loaded, load_settings
from parrot.config.settings import EngineSettings, Settings

__all__ = ["EngineSettings", "Loaded", "Settings", "load_settings"]
