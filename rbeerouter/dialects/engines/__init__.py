"""The engines that workers run: what each is asked, how its answers are read, and what its errors mean.

`ENGINES` is the table: an engine's key is what `engine` of a worker may be in the configuration, and what scripts see.
`control.probe` asks and reads by it, `server.daemon` hands its keys to the configuration. Pure: bytes in, facts out.
"""

from __future__ import annotations

from rbeerouter.dialects.engines.desktop import LLAMACPP, LMSTUDIO, MLX, OLLAMA_ENGINE
from rbeerouter.dialects.engines.metered import LMDEPLOY, SGLANG, TGI, TRTLLM, VLLM
from rbeerouter.dialects.engines.others import (
    ANTHROPIC_CLOUD,
    DATA_WORKER,
    OPENAI_CLOUD,
    OPENAI_COMPATIBLE,
    SDWEBUI,
    XAI,
)  # fmt: skip
from rbeerouter.dialects.engines.spec import EngineSpec

ENGINES: dict[str, EngineSpec] = {
    "vllm": VLLM, "sglang": SGLANG, "llamacpp": LLAMACPP, "ollama": OLLAMA_ENGINE, "tgi": TGI, "trtllm": TRTLLM,
    "lmdeploy": LMDEPLOY, "lmstudio": LMSTUDIO, "mlx": MLX, "sdwebui": SDWEBUI, "openai": OPENAI_COMPATIBLE,
    "openai-cloud": OPENAI_CLOUD, "anthropic": ANTHROPIC_CLOUD, "xai": XAI, "data": DATA_WORKER,
}  # fmt: skip
