"""The prefix-sharing engine of the local backend: every distinct token goes through the model once.

A search asks a model the same beginnings over and over: instructions, question, passages, the steps so
far. Callers send whole prompts all the same; here what they have in common is found, computed once and
kept. Several callers are served by one batch, which changes with every forward pass. The way of one
request, `TransformersLM.sample` or `loglikelihood` or a reward's reading:

    a caller's thread                          text ── tokenizing ──► token ids
         │                                             (no control token comes out of content; what fits)
         │  Request, with Texts to read or Samples to draw
         ▼
    Scheduler.submit ──► inbox
                           │         the model's thread, one `_turn` after the other:
                           ▼
      1  _drop, _admit     who has gone, and who has come
      2  _advance          planning.levels ──► Works: rows with Branches of tokens that nobody knows yet
         │                     └── PrefixTree.match: what is known
      3  _pass             Works and Samples ──► Pieces ──► Engine.forward ──► attention ──► Row.write
         │                     └── log-probabilities and outputs ──► the Sinks of the Texts
         │   _finish       a row that is done ──► PrefixTree.insert ──► Row.fetch
      4  _draw             the next token of every sample; those that have ended leave (PrefixTree.insert)
      5  _settle           the request's future: the caller goes on
         │
         ▼
    a caller's thread      Completions, log-likelihoods or tensors out of the Samples and Texts

A *row* holds a prompt (its trunk, lane 0) and any number of *lanes*, which see the trunk and themselves:
samples of the prompt, continuations to be scored, the other children of a parent. The records on the way:

- `Request`: one call; its future, and what it has cost.
- `Text`: a text and what is read on it, each reading a `Sink`. `Samples`: samples of one prompt.
- `Branch`: tokens that are computed together, in one lane. `Work`: the branches of one row.
- `Piece`: the tokens of one row in one pass.

What lies where, in the order in which data flows:

- `tokenizing`: prompts to token ids and back; what a passage says stays text; a thought that the template
  leaves open; which tokens of a text are scored, and how a prompt is cut to the context.
- `requests`: what callers want, texts to read and samples to draw, and how the next token is drawn.
  `reading`: outputs at chosen tokens, as rewards want them.
- `scheduler`: the thread that makes one batch of all requests, pass by pass.
- `planning`: which beginnings texts share, and which rows are computed, in which order.
- `engine`: one forward pass over rows of different lengths, without padding.
- `parallel`: a pass on several threads of a CPU, each with rows of its own.
- `cache`: keys and values of rows, and the tree that keeps them.
- `lora`: adapters; rows that differ in theirs go through one model together.
- `loading`: checkpoints, their precision, context and end tokens.

The engine knows token ids and tensors, no chat and no reward, and nothing of event loops: callers wait for
a request's future. This file imports nothing, as `tokenizing` also serves backends without torch.
"""

__all__: list[str] = []
