"""The same network in fewer steps, for what runs it and does not train it.

convolution, batch norm -> one convolution
enlarge 2x, pad by reflection, convolve 3x3 -> pad by repetition, convolve transposed 4x4: 4 multiplications, not 9
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sparnet.model import Convolution, ConvolutionBlock, InstanceNorm, SPARNet

Outputs = list[Tensor]
"""restored (B,3,S,S), then every alpha, in forward order."""


def outputs_of(network: SPARNet, faces: Tensor) -> Outputs:
    """`SPARNet.trace` as a list of tensors and without its check, which would wait for a GPU."""
    alphas, x = [], network.stem(faces)
    for _, unit in network.units():
        x, alpha, _ = unit(x)
        alphas += [alpha] * (alpha is not None)
    return [network.out(x), *alphas]


def traceable(model: SPARNet, maps: bool = True) -> SPARNet:
    """The folded network for exporters: its forward gives restored and, with `maps`, every alpha, as a tuple."""
    network = folded(model)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, InstanceNorm):  # whose loop over a batch's faces would be fixed at their number
                norm = nn.InstanceNorm2d(child.num_features, child.eps, affine=True)
                norm.load_state_dict(child.state_dict())
                setattr(module, name, norm)

    def forward(face: Tensor) -> tuple[Tensor, ...]:
        return tuple(outputs_of(network, face)[: None if maps else 1])

    vars(network)["forward"] = forward
    return network


@torch.no_grad()
def folded(model: SPARNet) -> SPARNet:
    """A copy that computes the same up to rounding, in fewer steps."""
    network = copy.deepcopy(model)
    for module in list(network.modules()):
        if isinstance(module, ConvolutionBlock) and isinstance(module.norm, nn.BatchNorm2d):
            module.convolution, module.norm = fuse_conv_bn_eval(module.convolution, module.norm), nn.Identity()
        for name, child in module.named_children():
            if isinstance(child, Convolution) and child.up:
                setattr(module, name, transposed(child))
    return network.eval()


def transposed(convolution: Convolution) -> nn.Sequential:
    """The enlarging convolution as a transposed one of 4x4: 4 multiplications an output pixel and channel, not 9.

    Enlarged, each pixel x[s] is seen twice side by side, so that y[j] = sum of x[s] t[j - 2s + 1] with t = w2, w1 + w2,
    w0 + w1, w0; and the reflection of the enlarged map is the repetition of the small one's edge.
    """
    weight = convolution.weight
    for axis in (2, 3):
        w0, w1, w2 = weight.unbind(axis)
        weight = torch.stack((w2, w1 + w2, w0 + w1, w0), axis)
    c_out, c_in = convolution.weight.shape[:2]
    result = skip_init(nn.ConvTranspose2d, c_in, c_out, 4, 2, padding=3, bias=convolution.bias is not None)
    state = {"weight": weight.transpose(0, 1).contiguous(), "bias": convolution.bias}
    result.load_state_dict({name: value for name, value in state.items() if value is not None}, assign=True)
    return nn.Sequential(nn.ReplicationPad2d(1), result)
