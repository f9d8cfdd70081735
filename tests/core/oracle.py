"""ClassroomKD in float64 NumPy, one sample, mentor and unit at a time, written from the formulas."""

import numpy as np


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def kl(p, q):
    return sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def one_hot(target, size):
    return target if np.ndim(target) == 1 else np.eye(size)[int(target)]


def largest(blocks, i):
    """The largest logit of a row, averaged over the blocks and units of a sample."""
    return max(np.mean([np.mean([row.max() for row in z[i]]) for z in blocks]), 1e-3)


def classroom(
    student, mentors, target, weight=None, *, T=12.0, group="sample", filtering=True,
    mentoring="gap", task_weight="student",
):  # fmt: skip
    """student: blocks of [B, U, K]; mentors: M lists of such; target: blocks of [B, U(, K)]."""
    count, units = student[0].shape[:2]
    M = len(mentors)
    v = np.ones((count, units)) if weight is None else weight

    def divergence(blocks, i, u):
        return sum(kl(one_hot(t[i, u], z.shape[-1]), softmax(z[i, u])) for z, t in zip(blocks, target, strict=True))  # fmt: skip

    def entropy_too(blocks, i, u):
        return sum(
            -(one_hot(t[i, u], z.shape[-1]) * np.log(softmax(z[i, u]))).sum()
            for z, t in zip(blocks, target, strict=True)
        )

    def score(blocks, i, u):
        if group == "unit":
            return np.exp(-divergence(blocks, i, u)) if v[i, u] else 1.0
        cells = [(i, k) for k in range(units)]
        if group == "batch":
            cells = [(j, k) for j in range(count) for k in range(units)]
        total = sum(v[c] for c in cells)
        return np.exp(-sum(v[c] * divergence(blocks, *c) for c in cells) / total) if total else 1.0

    result = {"task_loss": np.zeros(count), "mentor_loss": np.zeros((M, count))}
    for name in ("weight", "active", "temperature", "gap", "mentor_score"):
        result[name] = np.zeros((M, count, units))
    result["student_score"] = np.zeros((count, units))
    for i in range(count):
        for u in range(units):
            share = v[i, u] / v[i].sum() if v[i].sum() else 0.0
            r_s = score(student, i, u)
            r = [score(m, i, u) for m in mentors]
            result["student_score"][i, u] = r_s
            task = r_s if task_weight == "student" else task_weight
            if share:
                result["task_loss"][i] += share * task * entropy_too(student, i, u)
            for m in range(M):
                active = r[m] > r_s if filtering else True
                w = M * r[m] / (r_s + sum(r)) if filtering else 1.0
                g = max(0.0, 1 - r_s / r[m])
                tau = tau_s = {"gap": 1 + T * g, "none": 1.0, "fixed": T}.get(mentoring, 0.0)
                if mentoring == "dtkd":
                    top_m, top_s = largest(mentors[m], i), largest(student, i)
                    tau, tau_s = (2 * T * top / (top_m + top_s) for top in (top_m, top_s))
                result["weight"][m, i, u], result["active"][m, i, u] = w, active
                result["temperature"][m, i, u], result["gap"][m, i, u] = tau, g
                result["mentor_score"][m, i, u] = r[m]
                if active and share:
                    taught = sum(
                        kl(softmax(z[i, u] / tau), softmax(s[i, u] / tau_s))
                        for z, s in zip(mentors[m], student, strict=True)
                    )
                    result["mentor_loss"][m, i] += share * w * tau * tau_s * taught
    result["loss"] = (result["task_loss"] + result["mentor_loss"].sum(0)).mean()
    return result


def official(student, mentors, target, T=12.0):
    """The batch mode of the authors' code for logits ``[B, C]``: its formula, digit by digit."""
    count = len(target)

    def mean_ce(z):
        return -np.mean([np.log(softmax(z[i])[target[i]]) for i in range(count)])

    q_s, q = np.exp(-mean_ce(student)), [np.exp(-mean_ce(z)) for z in mentors]
    total, M = q_s + sum(q), len(mentors)
    w_s, w = round(q_s / total, 2) * M, [round(x / total, 2) * M for x in q]
    loss = q_s * mean_ce(student)
    temperatures = []
    for m in range(M):
        active = w[m] >= w_s
        gap = (w[m] - w_s) / max(w[m], w_s) if active and w[m] > 0 else 0.0
        tau = 1 + T * gap
        temperatures.append(tau)
        if active:
            mean = np.mean(
                [kl(softmax(mentors[m][i] / tau), softmax(student[i] / tau)) for i in range(count)]
            )
            loss += w[m] * tau**2 * mean
    return {"loss": loss, "weight": w, "active": [x >= w_s for x in w], "temperature": temperatures}
