"""Tiny random models of several architectures and a byte-level tokenizer, made on the spot."""

import pytest

from tests.tiny_models import CHAT, byte_tokenizer, enlivened

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CORPUS = [
    "The capital of France is Paris and the river is the Seine.",
    "user assistant system question answer search passage thought step",
    "Who wrote the play? The play was written by a poet from the north.",
    "naïve café 東京 😀 über straße",
]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}
ARCHITECTURES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3"]


def build_tokenizer(template=CHAT):
    return byte_tokenizer(CORPUS, 400, template=template, bos="<|endoftext|>")


def build_model(name, vocab_size, *, window=12, scale=8.0):
    """A model with random weights, scaled so that its distributions are not flat."""
    config_class, model_class, more = {
        "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
        "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {}),
        "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {}),
        "mistral": ("MistralConfig", "MistralForCausalLM", {"sliding_window": window}),
        "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {"sliding_window": window}),
        "gemma3": (
            "Gemma3TextConfig",
            "Gemma3ForCausalLM",
            {"sliding_window": window, "layer_types": ["sliding_attention", "full_attention"]},
        ),
    }[name]
    torch.manual_seed(0)
    sizes = {k: v for k, v in SIZES.items() if k != "head_dim" or name != "qwen2"}
    config = getattr(transformers, config_class)(
        vocab_size=vocab_size, **sizes, **more, bos_token_id=0, eos_token_id=2, pad_token_id=0
    )
    return enlivened(getattr(transformers, model_class)(config), scale)


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def models(tokenizer):
    """Models by architecture, made when first asked for."""

    class Models(dict):
        def __missing__(self, name):
            self[name] = build_model(name, len(tokenizer))
            return self[name]

    return Models()


@pytest.fixture(scope="session", params=ARCHITECTURES)
def any_model(request, models):
    return models[request.param]


@pytest.fixture(scope="session")
def folder(any_model, tokenizer, tmp_path_factory):
    """The model as a user has it: files. Loaded by name, it runs on agentprm's attention."""
    path = tmp_path_factory.mktemp("model")
    any_model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def lm(folder):
    from agentprm.lm import TransformersLM

    return TransformersLM(folder, dtype="float32", device="cpu")


@pytest.fixture
def llama(models, tokenizer):
    from agentprm.lm import TransformersLM

    return TransformersLM(models["llama"], tokenizer)


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Tiny tensors lose more by waiting for a second thread than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
