"""What detectors are measured on: random pictures with rectangles for objects, and the same proposals for all peers."""

from typing import Any

import torch
from torch import Tensor

OBJECTS = 6  # in every image
PROPOSALS = 1000  # for every image, of which
NEAR = 16  # lie about each object


def picture(height: int, width: int) -> dict[str, Any]:
    """A random image with rectangles for objects, as Detectron2 hands it to its models."""
    from detectron2.structures import Boxes, Instances, PolygonMasks

    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    corners = torch.rand(OBJECTS, 2) * 0.6
    boxes = torch.cat([corners, corners + 0.1 + 0.3 * torch.rand(OBJECTS, 2)], 1)
    boxes = boxes * torch.tensor([width, height, width, height])
    found = Instances((height, width))
    found.gt_boxes = Boxes(boxes)
    found.gt_classes = torch.randint(0, 80, (OBJECTS,))
    found.gt_masks = PolygonMasks([[_rectangle(box)] for box in boxes])
    return {"image": image, "instances": found, "height": height, "width": width}


def boxes_about(found: Any) -> Tensor:
    """Proposals for a picture: random ones, and some about its objects, which give about 100 positive regions."""
    height, width = found.image_size
    corners = torch.rand(PROPOSALS - OBJECTS * NEAR, 2) * 0.6
    anywhere = torch.cat([corners, corners + 0.05 + 0.35 * torch.rand(len(corners), 2)], 1)
    objects = found.gt_boxes.tensor.repeat(NEAR, 1)
    shifts = 0.1 * (torch.rand(len(objects), 4) - 0.5) * (objects[:, 2:] - objects[:, :2]).repeat(1, 2)
    return torch.cat([anywhere * torch.tensor([width, height, width, height]), objects + shifts])


def fix_proposals(model: Any, boxes: list[Tensor]) -> None:
    """Puts the same boxes in the place of what an RPN proposes, after it has.

    Untrained networks propose what their random weights say, and the heads of one would have more regions to work on
    than those of another.
    """
    from detectron2.structures import Boxes, Instances

    propose = model.proposal_generator.predict_proposals

    def predict(*args: Any) -> list[Any]:
        device = propose(*args)[0].proposal_boxes.device
        sizes = args[-1]
        return [
            Instances(
                size, proposal_boxes=Boxes(some.to(device)), objectness_logits=some.new_zeros(len(some)).to(device)
            )
            for size, some in zip(sizes, boxes, strict=True)
        ]

    model.proposal_generator.predict_proposals = predict


def _rectangle(box: Tensor) -> Any:
    left, top, right, bottom = box.double().numpy()
    return box.new_tensor([left, top, right, top, right, bottom, left, bottom], dtype=torch.float64).numpy()
