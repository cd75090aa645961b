"""Tiny random reward models of every layout, and a tokenizer that holds the tokens they need."""

import json

import pytest

from tests.tiny_models import byte_tokenizer, enlivened

CORPUS = [
    "Step 1: 1 + 1 = 2. ки\nStep 2: 2 * 3 = 6. ки\nStep 3: the answer is 6. ки",
    "a [PRM] b [PRM] c + d - e + f - g\n\nh \n\n\n\n i \n\n\n\n\n j \n\n\n\n",
    "correct incorrect Yes No question answer step passage finding evidence reference",
    "Natalia sold clips to her friends in April and then half as many in May.",
    "naïve café 東京 😀 über straße ** Problem ** Solution Task boxed judgement",
]


def build_tokenizer(bos=None):
    return byte_tokenizer(CORPUS * 4, 700, more=["<extra_0>"], bos=bos)


SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def build(kind, vocabulary, *, positions=2048, labels=None, scale=6.0, seed=0, **more):
    """A model with random weights, scaled so that its scores are not all the same."""
    import torch
    import transformers

    config_class = getattr(transformers, kind.split("For")[0].removesuffix("Model") + "Config")
    config = config_class(
        vocab_size=vocabulary,
        **SIZES,
        max_position_embeddings=positions,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
        **({"num_labels": labels} if labels else {}),
        **more,
    )
    torch.manual_seed(seed)
    return enlivened(getattr(transformers, kind)(config), scale)


def save_native(folder, model, tokenizer, heads, *, architecture, wrapper="", index=False, **config):
    """A checkpoint as published: decoder below `model.`, head tensors beside, code of its own named."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{wrapper}model.{k}": v.clone().contiguous() for k, v in model.state_dict().items()}
    tensors |= {k: v.clone().contiguous() for k, v in heads.items()}
    if index:
        names = sorted(tensors)
        parts = {
            "model-00001-of-00002.safetensors": names[::2],
            "model-00002-of-00002.safetensors": names[1::2],
        }
        for part, some in parts.items():
            save_file({name: tensors[name] for name in some}, folder / part, metadata={"format": "pt"})
        table = {name: part for part, some in parts.items() for name in some}
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": 0}, "weight_map": table})
        )
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    data = {**model.config.to_dict(), "architectures": [architecture], **config}
    data["auto_map"] = {"AutoModel": "modeling_of_theirs.TheirModel", "AutoConfig": "config_of_theirs.C"}
    (folder / "config.json").write_text(json.dumps(data))
    # Code that must never run.
    for name in ("modeling_of_theirs.py", "config_of_theirs.py"):
        (folder / name).write_text("raise RuntimeError('remote code was run')\n")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny():
    """The builders, under one name."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")

    class Tiny:
        tokenizer = staticmethod(build_tokenizer)
        model = staticmethod(build)
        save = staticmethod(save_native)

    return Tiny


@pytest.fixture(scope="session")
def tokenizer(tiny):
    return tiny.tokenizer()


@pytest.fixture(scope="session")
def with_bos(tiny):
    return tiny.tokenizer("<|endoftext|>")


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Tiny tensors lose more by waiting for a second thread than they gain."""
    try:
        import torch
    except ImportError:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
