"""Every discriminative family against plain forward passes on full strings, one at a time."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agentprm.budget import metered  # noqa: E402
from agentprm.rewards import as_trajectory, load_reward  # noqa: E402

QUESTION = "Natalia sold 48 clips in April and half as many in May. How many in all?"
STEPS = [
    "In May she sold 48 / 2 = 24 clips, which is half of what she sold in April.",
    "Together that is\n48 + 24 = 72 clips.",
    "The answer is 72, so she sold 72 clips altogether in April and May.",
]
OTHER = [STEPS[0], "So she sold 48 - 24 = 24 clips, the answer is 24."]


def ids_of(tokenizer, text, special=False):
    return tokenizer(text, add_special_tokens=special)["input_ids"]


def chat(tokenizer, messages, generate=False):
    return tokenizer.apply_chat_template(
        [{"role": r, "content": c} for r, c in messages], tokenize=False, add_generation_prompt=generate
    )


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def forward(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False)


# Each family: how to make and save a model, and the plain computation of all step scores.


class QwenPRM:
    family, system = "qwen-prm", r"Please reason step by step, and put your final answer within \boxed{}."
    index = False

    def make(self, tiny, tokenizer, folder):
        self.tokenizer = tokenizer
        self.backbone = tiny.model("Qwen2Model", len(tokenizer))
        torch.manual_seed(1)
        self.layers = torch.nn.Linear(32, 32), torch.nn.Linear(32, 2)
        heads = {
            f"score.{at}.{name}": value
            for at, layer in zip((0, 2), self.layers, strict=True)
            for name, value in layer.state_dict().items()
        }
        tiny.save(
            folder,
            self.backbone,
            tokenizer,
            heads,
            architecture="Qwen2ForProcessRewardModel",
            index=self.index,
        )
        return load_reward(folder, self.family, dtype="float32", device="cpu")

    def scores(self, question, steps):
        separator = ids_of(self.tokenizer, "<extra_0>")[0]
        body = "".join(step + "<extra_0>" for step in steps)
        head = [("system", self.system)] if self.system else []
        text = chat(self.tokenizer, [*head, ("user", question), ("assistant", body)])
        ids = ids_of(self.tokenizer, text)
        hidden = forward(self.backbone, ids).last_hidden_state[0]
        logits = self.layers[1](torch.relu(self.layers[0](hidden)))
        return [float(logits[i].softmax(-1)[1]) for i, token in enumerate(ids) if token == separator]


class ReasonFlux(QwenPRM):
    family, system, index = "reasonflux", "", True


class Pieces:
    """TRL and PURE: token classification, everything tokenized on its own."""

    def __init__(self, family, separator):
        self.family, self.separator = family, separator

    def make(self, tiny, tokenizer, folder):
        self.tokenizer = tokenizer
        self.model = tiny.model("Qwen2ForTokenClassification", len(tokenizer), labels=2)
        self.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return load_reward(folder, self.family, dtype="float32", device="cpu")

    def scores(self, question, steps):
        start = self.tokenizer.bos_token_id
        ids, ends = [] if start is None else [start], []
        ids = ids + ids_of(self.tokenizer, question)
        for step in steps:
            ids += ids_of(self.tokenizer, step) + ids_of(self.tokenizer, self.separator)
            ends.append(len(ids) - 1)
        logits = forward(self.model, ids).logits[0]
        return [float(logits[end].softmax(-1)[1]) for end in ends]


class Tags:
    """Math-Shepherd, ER-PRM, Math-psa and dPRM: two words of the vocabulary at the tag."""

    def __init__(self, family, kind, tag, head, joiner, words, number):
        self.family, self.kind, self.tag, self.head, self.joiner = family, kind, tag, head, joiner
        self.words, self.number = words, number

    def make(self, tiny, tokenizer, folder):
        self.tokenizer = tokenizer
        more = {"sliding_window": None} if self.kind == "MistralForCausalLM" else {}
        self.model = tiny.model(self.kind, len(tokenizer), **more)
        self.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return load_reward(folder, self.family, dtype="float32", device="cpu")

    def scores(self, question, steps):
        tag = ids_of(self.tokenizer, self.tag)[-1]
        good, bad = (ids_of(self.tokenizer, word)[-1] for word in self.words)
        written = [f"Step {k}: {s}" if self.number else s for k, s in enumerate(steps, 1)]
        text = self.head.format(question) + self.joiner.join(step + self.tag for step in written)
        ids = ids_of(self.tokenizer, text, special=True)
        logits = forward(self.model, ids).logits[0]
        pairs = [logits[i, [good, bad]].softmax(-1) for i, token in enumerate(ids) if token == tag]
        return [float(pair[0]) for pair in pairs]


class Turns:
    """RLHFlow and FoVer: the growing conversation, run again for every step."""

    def __init__(self, family, first, good, bad):
        self.family, self.first, self.good, self.bad = family, first, good, bad

    def make(self, tiny, tokenizer, folder):
        self.tokenizer = tokenizer
        self.model = tiny.model("LlamaForCausalLM", len(tokenizer))
        self.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return load_reward(folder, self.family, dtype="float32", device="cpu")

    def scores(self, question, steps):
        good, bad = (ids_of(self.tokenizer, word)[0] for word in (self.good, self.bad))
        scores, messages = [], []
        for k, step in enumerate(steps):
            messages.append(("user", step if k else self.first.format(question=question, step=step)))
            messages.append(("assistant", self.good))
            ids = ids_of(self.tokenizer, chat(self.tokenizer, messages))
            # The word, the end of the turn and a line break end the text; what predicts the word is read.
            tail = ids_of(self.tokenizer, self.good + "<|im_end|>\n")
            assert ids[-len(tail) :] == tail
            logits = forward(self.model, ids).logits[0, -len(tail) - 1]
            scores.append(float(logits[[good, bad]].softmax(-1)[0]))
        return scores


FOVER = (
    "** Problem **\n{question}\n\n** Task **\nYour task is to evaluate the accuracy of each step in the "
    'provided solution to the above question. For each step, respond with "correct" if the reasoning is '
    "logically valid and mathematically sound, or if the step is a general statement or transition that "
    'does not contain reasoning. Respond with "incorrect" if the step includes any errors or flawed logic.'
    "\n\n** Sotluion **\n{step}"
)


class Skywork:
    family, wrapper, activation = "skywork", "", True

    def make(self, tiny, tokenizer, folder):
        self.tokenizer = tokenizer
        self.backbone = tiny.model("Qwen2Model", len(tokenizer))
        torch.manual_seed(2)
        self.head = torch.nn.Linear(32, 1)
        heads = {f"v_head.summary.{k}": v for k, v in self.head.state_dict().items()}
        tiny.save(
            folder, self.backbone, tokenizer, heads, architecture="Qwen2ForPrmModel", wrapper=self.wrapper
        )
        # The architecture alone says which family it is.
        family = None if self.family == "skywork" else self.family
        return load_reward(folder, family, dtype="float32", device="cpu")

    def values(self, ids):
        return self.head(forward(self.backbone, ids).last_hidden_state[0])[:, 0]

    def scores(self, question, steps):
        newline = ids_of(self.tokenizer, "\n")
        ids, ends = ids_of(self.tokenizer, question + "\n"), []
        for step in steps:
            for line in step.split("\n"):
                ids += ids_of(self.tokenizer, line) + newline
            ends.append(len(ids) - 1)
        return [float(self.values(ids)[end].sigmoid()) for end in ends]


class PQM(Skywork):
    family, wrapper = "pqm", "pretrained_model."

    def scores(self, question, steps):
        tag = ids_of(self.tokenizer, " [PRM]")
        body = "\n".join(f"Step {k}: {step} [PRM]" for k, step in enumerate(steps, 1))
        ids = ids_of(self.tokenizer, f"{question} {body}")
        values = self.values(ids)
        ends = [i for i in range(len(ids)) if ids[i - len(tag) + 1 : i + 1] == tag]
        return [float(values[end]) for end in ends]


class Scalar:
    """Sequence classification with one label, a text per step."""

    def __init__(self, family, text, activation, **options):
        self.family, self.text, self.activation, self.options = family, text, activation, options

    def make(self, tiny, tokenizer, folder):
        self.tokenizer = tokenizer
        self.model = tiny.model("Qwen2ForSequenceClassification", len(tokenizer), labels=1)
        self.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return load_reward(folder, self.family, dtype="float32", device="cpu", **self.options)

    def scores(self, question, steps):
        scores = []
        for k in range(len(steps)):
            ids = self.text(self.tokenizer, question, steps[: k + 1])
            hidden = forward(self.model.model, ids).last_hidden_state[0, -1]
            value = self.model.score(hidden)[0]
            scores.append(float(value.sigmoid() if self.activation else value))
        return scores


def universal(reference):
    def text(tokenizer, question, steps):
        user = f"{question}\n\n###\n\nThe reference answer is: {reference}"
        head = chat(tokenizer, [("system", "You are a helpful assistant."), ("user", user)], generate=True)
        body = "\n\n".join(steps) + "\n\n"
        return [*ids_of(tokenizer, head), *ids_of(tokenizer, body), tokenizer.eos_token_id]

    return text


def hierarchical(merge):
    def text(tokenizer, question, steps):
        opening = f"Question:\n{question}\n\nLet's break it down step by step!\n\n"
        before, now = "\n\n".join(steps[:-merge]), "\n\n".join(steps[-merge:])
        if len(steps) <= merge:
            return ids_of(
                tokenizer, f"{opening}Now, let's focus on the current step:\n" + "\n\n".join(steps) + "\n"
            )
        return ids_of(
            tokenizer,
            f"{opening}Previous reasoning:\n{before}\n\nNow, let's focus on the current step:\n{now}",
        )

    return text


CASES = {
    "qwen-prm": QwenPRM(),
    "reasonflux-7b": ReasonFlux(),
    "trl": Pieces("trl", "\n"),
    "pure": Pieces("pure", "\n\n"),
    "math-shepherd": Tags("math-shepherd", "MistralForCausalLM", " ки", "{} ", "\n", (" +", " -"), True),
    "er-prm": Tags("er-prm", "LlamaForCausalLM", " ки", "{} ", "", (" +", " -"), True),
    "math-psa": Tags("math-psa", "Qwen2ForCausalLM", " \n\n\n\n\n", "{} ", " ", (" +", " -"), True),
    "dprm": Tags("dprm", "Qwen2ForCausalLM", " \n\n\n\n", "{} \n\n", "", ("+", "-"), False),
    "rlhflow": Turns("rlhflow", "{question} {step}", "+", "-"),
    "fover": Turns("fover", FOVER, "correct", "incorrect"),
    "skywork": Skywork(),
    "pqm": PQM(),
    "universal": Scalar("universal-prm", universal("There is no reference answer for this question."), True),
    "universal-with-reference": Scalar(
        "universal-prm", universal("72"), True, references={QUESTION: "72", "another": "1"}
    ),
    "reasonflux-1.5b": Scalar(
        "reasonflux-scalar", lambda t, q, steps: ids_of(t, q + "\n\n".join(steps)), False
    ),
    "hrm-merged": Scalar("hrm", hierarchical(2), False),
    "hrm": Scalar("hrm", hierarchical(1), False, merge=1),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tiny, tokenizer, with_bos, tmp_path_factory):
    chosen = CASES[request.param]
    of = with_bos if request.param in ("trl", "math-shepherd") else tokenizer
    reward = chosen.make(tiny, of, tmp_path_factory.mktemp(request.param))
    chosen.tokenizer = reward.tokenizer  # as loaded: transformers gives it its model's own splitting
    return chosen, reward


def rows(reward, *trajectories):
    return reward.score(QUESTION, [as_trajectory(steps) for steps in trajectories])


def test_scores_equal_plain_forward_passes(case):
    chosen, reward = case
    reward.clear_cache()
    wanted = [chosen.scores(QUESTION, STEPS), chosen.scores(QUESTION, OTHER)]
    assert [len(row) for row in wanted] == [3, 2], "the oracle itself must find one score per step"
    got = rows(reward, STEPS, OTHER)
    for mine, theirs in zip(got, wanted, strict=True):
        assert mine == pytest.approx(theirs, abs=2e-5, rel=2e-5)
    assert len({round(s, 4) for row in wanted for s in row}) > 2, "random weights must tell steps apart"


def test_neither_company_nor_history_changes_a_score(case):
    _, reward = case
    reward.clear_cache()
    together = rows(reward, STEPS, OTHER, STEPS[:1], STEPS, [])
    for trajectory, row in zip([STEPS, OTHER, STEPS[:1], STEPS, []], together, strict=True):
        reward.clear_cache()
        assert rows(reward, trajectory)[0] == pytest.approx(row, abs=2e-5, rel=2e-5)
    assert together[0][0] == together[1][0] == together[2][0]


def test_a_grown_trajectory_costs_its_new_tokens(case):
    _, reward = case
    reward.clear_cache()
    template, tokenizer = reward.template, reward.tokenizer
    kept = [set()]

    def new(prefix):
        """Tokens of a prefix that no earlier prefix of the trajectory had."""
        ids = template.ids(tokenizer, QUESTION, prefix)
        fresh = [i for i in range(len(ids)) if tuple(ids[: i + 1]) not in kept[0]]
        kept[0] |= {tuple(ids[: i + 1]) for i in range(len(ids))}
        return len(fresh)

    for k in range(1, len(STEPS) + 1):
        before = reward.tokens_computed
        with metered() as meter:
            rows(reward, STEPS[:k])
        assert reward.tokens_computed - before == meter.usage["computed_tokens"] == new(STEPS[:k])
        assert meter.usage["reward_calls"] == 1
    before = reward.tokens_computed
    with metered() as meter:
        rows(reward, STEPS, STEPS[:2])
    assert reward.tokens_computed == before
    assert meter.usage["reward_calls"] == meter.usage["computed_tokens"] == 0
    # At once it costs no more than step by step, but for first steps that are only shown together.
    reward.clear_cache()
    at_once = reward.tokens_computed
    rows(reward, STEPS)
    kept[0] = set()
    assert reward.tokens_computed - at_once <= 1.3 * sum(new(STEPS[:k]) for k in range(1, 4))


@pytest.mark.parametrize("name", ["qwen-prm", "rlhflow", "universal", "hrm"])
def test_a_whole_trajectory_is_one_pass(name, tiny, tokenizer, tmp_path, monkeypatch):
    # Not one per step, even where every prefix is closed by tokens of its own. (What HRM shows of a step
    # moves from one heading to the other: the text that all prefixes share is a pass of its own.)
    reward = CASES[name].make(tiny, tokenizer, tmp_path)
    passes = []
    forward = reward._engine.forward
    monkeypatch.setattr(reward._engine, "forward", lambda *args: passes.append(1) or forward(*args))
    rows(reward, STEPS)
    assert len(passes) == (2 if name == "hrm" else 1)
