"""A tiny random base model in a folder, for trainers."""

from tests.tiny_models import CHAT, byte_tokenizer, enlivened

WORDS = ["Who wrote the play? When was #1 born? Question Sub-questions: 1. 2. 3. step red blue green yes no"]


def tiny_tokenizer():
    return byte_tokenizer(WORDS, 320, template=CHAT, bos="<|endoftext|>")


def write_tiny_model(folder, seed=0, layers=2):
    """A random Llama with its tokenizer, as save_pretrained writes them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = enlivened(LlamaForCausalLM(config), 8.0)
    with torch.no_grad():
        model.lm_head.weight.mul_(3)  # so that a token can be all but certain
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
