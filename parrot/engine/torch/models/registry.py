"""Which implementation runs a model: one of ours where there is one, else `transformers` on our attention."""

from dataclasses import dataclass
from pathlib import Path

from parrot.engine.torch.loader import WeightFiles
from parrot.engine.torch.models import llama_shape, opt_shape
from parrot.engine.torch.models.config_reader import ConfigReader, open_config
from parrot.engine.torch.models.decoder import Decoder
from parrot.engine.torch.models.llama import LlamaModel
from parrot.engine.torch.models.llama_shape import LlamaShape, read_llama_shape, why_not_llama
from parrot.engine.torch.models.opt import OptModel
from parrot.engine.torch.models.opt_shape import OptShape, read_opt_shape, why_not_opt
from parrot.engine.torch.models.placement import Placement
from parrot.engine.torch.models.shape import ModelShape

FAST_FAMILIES = (*llama_shape.FAMILIES, opt_shape.FAMILY)
"""`model_type` of the families with an implementation of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model directory whose config was read and whose weights were not."""

    model_dir: Path
    shape: ModelShape
    why_not_fast: str | None
    """Why it runs through `transformers`; None: it does not."""

    def load(self, placement: Placement) -> Decoder:
        """Load the weights; blocks for seconds.

        Raises:
            ConfigError: `bad_model`; weights that do not fit the config, or a model that cannot be served.
        """
        if self.why_not_fast is not None:
            # transformers takes seconds to import, so only who needs it pays.
            from parrot.engine.torch.models.generic import load_generic

            return load_generic(self.model_dir, self.shape, placement)
        with WeightFiles(self.model_dir) as files:
            if isinstance(self.shape, OptShape):
                return OptModel(files, self.shape, placement)
            assert isinstance(self.shape, LlamaShape)
            return LlamaModel(files, self.shape, placement)


def choose_model(model_dir: Path) -> ModelSource:
    """Read a model's config and decide what runs it.

    Raises:
        ConfigError: `bad_model`; the config is damaged, or describes nothing that can be served.
    """
    reader = open_config(model_dir)
    family = reader.values.get("model_type")
    if not isinstance(family, str):
        raise reader.fail(f"`model_type` must name a family of models, not {family!r}")
    if reader.values.get("quantization_config") is not None:
        raise reader.fail("quantised weights are not supported (`quantization_config`)")
    reason = _why_not_fast(reader, family)
    if reason is not None:
        from parrot.engine.torch.models.generic import read_generic_shape

        return ModelSource(
            model_dir=model_dir, shape=read_generic_shape(reader, model_dir), why_not_fast=reason
        )
    read = read_opt_shape if family == opt_shape.FAMILY else read_llama_shape
    return ModelSource(model_dir=model_dir, shape=read(reader, model_dir), why_not_fast=None)


def _why_not_fast(reader: ConfigReader, family: str) -> str | None:
    if family in llama_shape.FAMILIES:
        return why_not_llama(reader)
    if family == opt_shape.FAMILY:
        return why_not_opt(reader)
    return f"no implementation of {family} here"
