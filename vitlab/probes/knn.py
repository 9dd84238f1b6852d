"""Weighted nearest neighbors, DINO's protocol (arXiv:2104.14294; Wu et al., arXiv:1805.01978)."""

import torch
import torch.nn.functional as F

from vitlab.probes.probe import Features, Probe

_CHUNK = 1024  # test rows at a time; the result does not depend on it


class KNN(Probe):
    """The k most similar training features vote, each with weight exp(cosine / temperature).

    Args:
        k: neighbors; more than there are training images means all of them.
        temperature: of the votes.
    """

    def __init__(self, k: int = 20, temperature: float = 0.07):
        if k < 1 or temperature <= 0:
            raise ValueError(f"k {k} must be at least 1 and temperature {temperature} above 0")
        self.k, self.temperature = k, temperature

    def score(self, train: Features, test: Features) -> dict[str, float]:
        """Return top-1 accuracy in percent."""
        keys = F.normalize(train.x, dim=1)
        classes = int(max(train.y.max(), test.y.max())) + 1
        k = min(self.k, len(keys))
        correct = 0
        for x, y in zip(test.x.split(_CHUNK), test.y.split(_CHUNK), strict=True):
            similarity, neighbor = (F.normalize(x, dim=1) @ keys.T).topk(k, dim=1)
            votes = torch.zeros(len(x), classes, device=x.device)
            votes.scatter_add_(1, train.y[neighbor], (similarity / self.temperature).exp())
            correct += int((votes.argmax(1) == y).sum())
        return {"top1": 100 * correct / len(test.y)}
