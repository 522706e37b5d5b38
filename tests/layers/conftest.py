"""An independent reference of ``y = S X D w + b``: numpy, float64, windows by loops, D by eigendecomposition."""

import numpy as np
import pytest
import torch


class Reference:
    """Explicit data matrices and what follows from them. Arrays are float64; windows are ``(C, th, tw)``."""

    @staticmethod
    def local_scale(x, kind):
        """Scaled copy of ``x``; one sample along the first axis."""
        out = np.array(x, dtype=np.float64)
        for sample in out:
            if kind == "l1" and np.abs(sample).mean() >= 1e-6:
                sample /= np.abs(sample).mean()
            elif kind == "std":
                sample[...] = (sample - sample.mean()) / np.sqrt(sample.var() + 1e-5)
        return out

    @staticmethod
    def windows(padded, kernel, stride=(1, 1), dilation=(1, 1)):
        """All windows of one padded sample: ``(rows, columns, C, kh, kw)``."""
        _, height, width = padded.shape
        tops = range(0, height - dilation[0] * (kernel[0] - 1), stride[0])
        lefts = range(0, width - dilation[1] * (kernel[1] - 1), stride[1])
        rows = [
            [
                np.stack(
                    [
                        [padded[:, top + i * dilation[0], left + j * dilation[1]] for j in range(kernel[1])]
                        for i in range(kernel[0])
                    ]
                ).transpose(2, 0, 1)
                for left in lefts
            ]
            for top in tops
        ]
        return np.array(rows)

    @staticmethod
    def moments(rows):
        """Mean and biased covariance of ``(R, D)``."""
        mean = rows.mean(0)
        return mean, (rows - mean).T @ (rows - mean) / len(rows)

    @staticmethod
    def inverse_sqrt(cov, eps):
        values, vectors = np.linalg.eigh(cov + eps * np.eye(len(cov)))
        return (vectors / np.sqrt(values)) @ vectors.T

    def whitened(self, samples, sampled, block_size, shared, eps):
        """Every window of ``samples`` ``(N, H, W, C, th, tw)`` whitened block by block with the moments of ``sampled``.

        Returns the whitened windows in the same shape, and the pairs (mean, D), one per matrix.
        """
        n, h, w, channels, *taps = samples.shape
        cut = [slice(c, c + block_size) for c in range(0, channels, block_size)]
        rows = [sampled[:, :, :, block].reshape(-1, block_size * np.prod(taps, dtype=int)) for block in cut]
        rows = [np.concatenate(rows)] * len(cut) if shared else rows
        out = np.empty_like(samples)
        statistics = []
        for block, block_rows in zip(cut, rows, strict=True):
            mean, cov = self.moments(block_rows)
            matrix = self.inverse_sqrt(cov, eps)
            statistics.append((mean, matrix))
            flat = samples[:, :, :, block].reshape(n * h * w, -1)
            out[:, :, :, block] = ((flat - mean) @ matrix).reshape(n, h, w, block_size, *taps)
        return out, statistics[:1] if shared else statistics

    def conv2d(self, x, weight, bias, *, stride, dilation, groups, pad, block_size, shared, kind, eps, sampling):
        """``pad`` maps a sample to its padded version. Returns the output and the (mean, D) pairs."""
        scaled = self.local_scale(x, kind)
        kernel = weight.shape[2:]
        padded = [pad(sample) for sample in scaled]
        samples = np.stack([self.windows(p, kernel, stride, dilation) for p in padded])
        every = samples[:, ::sampling, ::sampling]
        white, statistics = self.whitened(samples, every, block_size, shared, eps)
        per_in, per_out = weight.shape[1], len(weight) // groups
        y = np.empty((len(x), len(weight), *samples.shape[1:3]))
        for o in range(len(weight)):
            first = o // per_out * per_in
            y[:, o] = np.einsum("nhwcij,cij->nhw", white[:, :, :, first : first + per_in], weight[o]) + bias[o]
        return y, statistics

    def conv_transpose2d(
        self, x, weight, bias, *, stride, padding, output_padding, groups, block_size, shared, kind, eps, sampling
    ):
        """One output pixel at a time: the window of input pixels it sees, whitened, times the taps it meets."""
        scaled = self.local_scale(x, kind)
        kernel = weight.shape[2:]
        window = [k // s for k, s in zip(kernel, stride, strict=True)]
        sizes = x.shape[2:]
        out = [(sizes[a] - 1) * stride[a] - 2 * padding[a] + kernel[a] + output_padding[a] for a in (0, 1)]
        last = [[(i + padding[a]) // stride[a] for i in range(out[a])] for a in (0, 1)]  # last input pixel seen
        big = np.zeros((*x.shape[:2], *[sizes[a] + 8 * window[a] for a in (0, 1)]))  # zeros all around
        origin = [4 * window[a] for a in (0, 1)]
        big[:, :, origin[0] : origin[0] + sizes[0], origin[1] : origin[1] + sizes[1]] = scaled

        def window_at(p, q):
            top, left = origin[0] + p - window[0] + 1, origin[1] + q - window[1] + 1
            return big[:, :, top : top + window[0], left : left + window[1]]

        rows, columns = sorted(set(last[0])), sorted(set(last[1]))
        samples = np.stack([np.stack([window_at(p, q) for q in columns], 1) for p in rows], 1)
        every = samples[:, ::sampling, ::sampling]
        white, statistics = self.whitened(samples, every, block_size, shared, eps)
        per_in, per_out = weight.shape[0] // groups, weight.shape[1]
        y = np.zeros((len(x), groups * per_out, *out))
        for i in range(out[0]):
            for j in range(out[1]):
                p, q = last[0][i], last[1][j]
                z = white[:, rows.index(p), columns.index(q)]
                for u in range(window[0]):
                    for v in range(window[1]):
                        a = i + padding[0] - (p - window[0] + 1 + u) * stride[0]
                        b = j + padding[1] - (q - window[1] + 1 + v) * stride[1]
                        for g in range(groups):
                            inputs, outputs = slice(g * per_in, (g + 1) * per_in), slice(g * per_out, (g + 1) * per_out)
                            y[:, outputs, i, j] += z[:, inputs, u, v] @ weight[inputs, :, a, b]
        return y + np.reshape(bias, (-1, 1, 1)), statistics


@pytest.fixture(scope="session")
def reference():
    return Reference()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def _kinds():
    from ndpp_dense.layers import NDConv2d, NDConvTranspose2d, NDLinear

    return {
        "conv": (lambda c: NDConv2d(8, 6, 3, padding=1, config=c), (8, 5, 5)),
        "conv_transpose": (lambda c: NDConvTranspose2d(8, 6, 2, 2, config=c), (8, 5, 5)),
        "linear": (lambda c: NDLinear(8, 6, config=c), (8,)),
    }


@pytest.fixture(params=["conv", "conv_transpose", "linear"])
def kind(request):
    """Each of the three layers: ``(make(config), shape of a sample)``; 8 channels or features in, 6 out."""
    make, shape = _kinds()[request.param]

    def seeded(config):
        torch.manual_seed(0)
        return make(config)

    return seeded, shape


@pytest.fixture
def gradcheck_layer():
    """Gradcheck in training mode with respect to input, weight and bias; buffers start anew at every evaluation."""

    def check(layer, x):
        state = {name: buffer.clone() for name, buffer in layer.named_buffers()}

        def forward(x, weight, bias):
            fresh = {name: buffer.clone() for name, buffer in state.items()}
            return torch.func.functional_call(layer.train(), {"weight": weight, "bias": bias, **fresh}, (x,))

        arguments = [t.detach().clone().requires_grad_() for t in (x, layer.weight, layer.bias)]
        assert torch.autograd.gradcheck(forward, arguments, atol=1e-6, rtol=1e-4, fast_mode=True)

    return check
