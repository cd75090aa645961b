"""What tiny random models of the tests have in common: a tokenizer trained on the spot, lively weights."""

import copy

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKERS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "planner": {"r": 4, "lora_alpha": 8, "target_modules": LINEAR},
    "reader": {"r": 2, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    "critic": {
        "r": 4,
        "lora_alpha": 4,
        "target_modules": ["v_proj", "up_proj"],
        "rank_pattern": {"up_proj": 2},
        "alpha_pattern": {"layers.1.self_attn.v_proj": 12},
    },
}


def byte_tokenizer(corpus, size, *, more=(), template=CHAT, bos=None):
    """A byte-level tokenizer of `size` tokens with the chat markers and `more` special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*MARKERS, *more],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=bos,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", *more],
    )
    tokenizer.chat_template = template
    return tokenizer


def enlivened(model, scale):
    """The model with larger weights, so that its distributions are not flat."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return model.eval()


def save_adapter(folder, base, seed, **config):
    """An adapter with weights that matter, as peft saves it; returns peft's own model with it."""
    import peft
    import torch

    torch.manual_seed(seed)
    model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    return model.eval()


def likelihood(model, tokenizer, prompt, continuation):
    """A continuation's log-probability by one plain forward pass of the whole text."""
    import torch

    messages = [{"role": role, "content": text} for role, text in prompt.messages]
    head = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(head + continuation, add_special_tokens=False)["input_ids"]
    start = len(tokenizer(head, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logprobs = model(torch.tensor([ids], device=model.device)).logits[0].float().log_softmax(-1)
    return sum(float(logprobs[at - 1, ids[at]]) for at in range(start, len(ids)))
