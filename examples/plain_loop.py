"""A classroom in a training loop of your own: plain PyTorch, no Trainer, no recipe.

Trains two mentors on scikit-learn's handwritten digits, then a student in their classroom:

    python examples/plain_loop.py
"""

import torch
import torch.nn.functional as F

import classroomkd as ckd
from classroomkd.data import ViewLoader, crop, load_image_set

EPOCHS, BATCH, SEED = 6, 64, 0
train_set, test_set = (load_image_set("digits", split) for split in ("train", "test"))
views = ViewLoader(train_set, BATCH, seed=SEED, augment=[crop(1)], shuffle=True, drop_last=True)
tests = ViewLoader(test_set, 512)


def network(model: str) -> torch.nn.Module:
    torch.manual_seed(SEED)
    return ckd.build_model(model, 10, mean=train_set.mean, std=train_set.std)


def fit(student, loss_of):
    """Train ``student`` on ``loss_of(images, target)`` with SGD and a one-cycle schedule."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.05, total_steps=EPOCHS * len(views), cycle_momentum=False
    )
    for epoch in range(EPOCHS):
        views.set_epoch(epoch)
        for images, target, _ in views:
            optimizer.zero_grad()
            loss_of(images, target).backward()
            optimizer.step()
            schedule.step()
    return student.eval()


@torch.no_grad()
def accuracy(model) -> float:
    hits = [(model(images).argmax(-1) == target).float() for images, target, _ in tests]
    return 100 * torch.cat(hits).mean().item()


def main() -> dict[str, float]:
    mentors = []
    for name in ("resnet14", "resnet20"):
        mentor = network(name)
        mentors.append(fit(mentor, lambda x, y, m=mentor: F.cross_entropy(m(x), y)))

    def lesson_loss(images, target):
        with torch.no_grad():
            taught = [mentor(images) for mentor in mentors]
        return ckd.classroom_loss(student(images), taught, target, temperature=12.0).loss

    student = network("resnet8")
    fit(student, lesson_loss)
    return {
        name: accuracy(net)
        for name, net in zip(("m1", "m2", "student"), (*mentors, student), strict=True)
    }


if __name__ == "__main__":
    for name, percent in main().items():
        print(f"{name:8s} {percent:.2f} % of the test digits")
