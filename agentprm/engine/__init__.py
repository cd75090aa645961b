"""The prefix-sharing engine of the local backend: every distinct token goes through the model once.

| module | what |
|---|---|
| `requests` | what callers want: texts to read, and what is computed for them |
| `planning` | which beginnings texts share, and which rows are computed in which order |
| `scheduler` | one thread that makes of all requests one batch, pass by pass |
| `engine` | a forward pass over pieces of rows |
| `attention` | rows of different lengths side by side, without padding |
| `cache` | keys and values of rows, and the tree that keeps them |
| `decoding` | samples: drawing tokens and ending |
| `reading` | a model's outputs at chosen tokens; what rewards use |
| `tokenizing`, `spans` | prompts to token ids and back; what of a text is scored, and what fits the context |
| `loading`, `parallel` | checkpoints and precision; parts of a pass on threads of their own |

Nothing is imported here, as `tokenizing` and `spans` serve backends that have no torch.
"""

__all__: list[str] = []
