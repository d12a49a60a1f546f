"""The plots, drawn from the steps of results files; readable in print and without colour."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "os^Dv*XP"
_PICTURED = 2  # datasets whose queries are shown
_STYLES = ("-", "--", ":", "-.")
_RC = {
    "figure.dpi": 150,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.hashsalt": "fastlane",
    "svg.fonttype": "none",
}


def figure(columns: int, rows: int = 1, *, width: float = 3.4, height: float = 2.8) -> "tuple[Figure, list[Axes]]":
    """Axes in a grid, in the common style.

    Raises:
        SystemExit: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise SystemExit("plots need matplotlib: pip install matplotlib (make reproduce does)") from None
    mpl.use("Agg")
    mpl.rcParams.update(_RC)
    from matplotlib import pyplot as plt

    made, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    return made, list(axes.flat)


def save(made: "Figure", path: Path) -> None:
    """Write and close; the same data give the same file."""
    from matplotlib import pyplot as plt

    made.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
    plt.close(made)
    print(f"drawn: {path}", flush=True)


def line(ax: "Axes", number: int, xs: list[float], ys: list[float], label: str) -> None:
    """One curve, told apart by marker and dashes."""
    marker, dashes = _MARKERS[number % len(_MARKERS)], _STYLES[number % len(_STYLES)]
    ax.plot(xs, ys, dashes, marker=marker, markersize=4, linewidth=1.2, label=label)


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto front of (cost, quality) points, by cost."""
    best, front = -np.inf, []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if quality > best:
            front.append((cost, quality))
            best = quality
    return front


def sweep(steps: dict[str, Any], dataset: str, out: Path) -> None:
    """Latency, comparisons and bytes against quality."""
    found = [step["results"] for step in steps.values() if step["results"]["dataset"] == dataset]
    made, axes = figure(3)
    for number, refine in enumerate((True, False)):
        label = "refined" if refine else "routed tokens alone"
        one = [f for f in found if f["budget"] is None and f["bits"] == 4]
        points = [p for f in one for p in f["points"] if p["refine"] is refine or p["route_k"] == "all"]
        points.sort(key=lambda p: (isinstance(p["route_k"], str), p["route_k"]))
        for ax, cost in zip(axes, ("p50_ms", "comparisons"), strict=False):
            line(ax, number, [p[cost] for p in points], [p["nDCG@10"] for p in points], label)
            if refine:
                continue
            for p in points:
                ax.annotate(str(p["route_k"]), (p[cost], p["nDCG@10"]), xytext=(3, -9), textcoords="offset points")
    for ax, text in zip(axes, ("ms a query, p50, without encoding", "comparisons a query"), strict=False):
        ax.set(xscale="log", xlabel=text, ylabel="nDCG@10")
    axes[0].set_title("routed query tokens, 4 bits, all tokens")
    axes[0].legend(loc="lower right")
    axes[1].set_title("the same, comparisons")
    _by_bytes(axes[2], found)
    save(made, out / f"sweep-{dataset}.svg")


def _by_bytes(ax: "Axes", found: list[dict[str, Any]]) -> None:
    default: list[tuple[float, float]] = []
    for number, budget in enumerate(dict.fromkeys(f["budget"] for f in found)):
        points = []
        for f in sorted((f for f in found if f["budget"] == budget), key=lambda f: f["bits"]):
            of_default = [p for p in f["points"] if p["route_k"] == 16 and p["refine"]]
            points += [(f["bytes_per_document"], p["nDCG@10"]) for p in of_default]
        if points:
            label = "all tokens" if budget is None else f"{budget} tokens"
            line(ax, number, [p[0] for p in points], [p[1] for p in points], label)
        default += points
    front = pareto(default)
    ax.plot([p[0] for p in front], [p[1] for p in front], color="0.5", linewidth=4, alpha=0.3, label="Pareto front")
    ax.set(xscale="log", xlabel="bytes a document", ylabel="nDCG@10", title="bits 1, 2, 4, 8, 16, k = 16 refined")
    ax.legend(loc="lower right", fontsize=7)


def routing(steps: dict[str, Any], out: Path) -> None:
    """Pictures of the router's shares, of its self-attention; correlations; ablations."""
    found = {name: step["results"] for name, step in steps.items()}
    for name, one in list(found.items())[:_PICTURED]:
        _heat_map(one["pictures"]["queries"], out / f"routing-queries-{name}.png")
        _matrices(one["pictures"]["queries"], out / f"routing-attention-{name}.png")
    _ablations(found, out / "routing-ablations.svg")
    _positions(found, out / "routing-positions.svg")


def _heat_map(queries: list[dict[str, Any]], path: Path) -> None:
    """Positions x queries: the router's share by tone, the token in its cell, a frame around the four routed."""
    width = min(20, max(len(query["tokens"]) for query in queries))
    made, (ax,) = figure(1, width=0.52 * width + 0.6, height=0.24 * len(queries) + 0.8)
    shares = np.full((len(queries), width), np.nan)
    for row, query in enumerate(queries):
        cut = query["share"][:width]
        shares[row, : len(cut)] = cut
        for column, token in enumerate(query["tokens"][:width]):
            dark = shares[row, column] > 0.5
            ax.text(column, row, token[:9], ha="center", va="center", fontsize=5, color="white" if dark else "black")
            if column in query["routed"]:
                ax.add_patch(_frame(column, row))
    picture = ax.imshow(shares, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    made.colorbar(picture, ax=ax, label="share of the router's softmax", fraction=0.03, pad=0.01)
    ax.grid(visible=False)
    ax.set(xlabel="position of the token", ylabel="query", title="frames: the four tokens routed first")
    ax.set(xticks=range(width), yticks=[])
    save(made, path)


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, linewidth=0.7)


def _matrices(queries: list[dict[str, Any]], path: Path) -> None:
    shown = [query for query in queries if "attention" in query]
    made, axes = figure(2, 2, width=3.6, height=3.4)
    for ax, query in zip(axes, shown, strict=False):
        ax.imshow(np.array(query["attention"]), cmap="Greys", vmin=0)
        ticks = range(len(query["tokens"]))
        ax.set_xticks(ticks, query["tokens"], rotation=90, fontsize=5)
        ax.set_yticks(ticks, query["tokens"], fontsize=5)
        ax.grid(visible=False)
        ax.set_title(f"rows attend to columns, from 0 to {np.max(query['attention']):.2f}", fontsize=7)
    save(made, path)


def _ablations(found: dict[str, Any], path: Path) -> None:
    made, axes = figure(3)
    for number, choice in enumerate(next(iter(found.values()))["ablations"]["chosen_by"]):
        ks = next(iter(found.values()))["ablations"]["k"]
        relative = [
            np.array(one["ablations"]["chosen_by"][choice]) / one["ablations"]["full"] for one in found.values()
        ]
        line(axes[0], number, ks, list(np.mean(relative, axis=0)), choice)
    axes[0].set(xscale="log", xlabel="routed tokens k", ylabel="nDCG@10 over full SumMaxSim's")
    axes[0].set_xticks(ks, [str(k) for k in ks])
    axes[0].minorticks_off()
    axes[0].set_title("k tokens alone, chosen by")
    axes[0].legend(fontsize=7, loc="lower right")
    for number, (name, one) in enumerate(found.items()):
        ablation = one["ablations"]
        ts = [0.0, *ablation["temperatures"]]
        line(axes[1], number, ts, [ablation["argmax"]["1"], *ablation["temperature"]["1"]], name)
    axes[1].set(xlabel="temperature of the draw (0: the best)", ylabel="nDCG@10", title="one token drawn, alone")
    axes[1].legend(fontsize=7)
    names = ("router", "rarity", "position", "norm")
    for number, (name, one) in enumerate(found.items()):
        values = [one["usefulness"]["alone"][kind] or 0.0 for kind in names]
        places = np.arange(len(names)) + 0.2 * number
        hatch = ("", "//", "..", "xx")[number % 4]
        axes[2].bar(places, values, 0.2, label=name, color="0.85", edgecolor="0.2", hatch=hatch)
    axes[2].set_xticks(np.arange(len(names)) + 0.1 * (len(found) - 1), names)
    axes[2].set(ylabel="Spearman's correlation", title="with a token's usefulness alone")
    axes[2].axhline(0, color="0.3", linewidth=0.8)
    axes[2].legend(fontsize=7)
    save(made, path)


def _positions(found: dict[str, Any], path: Path) -> None:
    made, (ax,) = figure(1, width=5)
    for number, (name, one) in enumerate(found.items()):
        share = {int(position): value for position, value in one["positions"].items()}
        xs = list(range(min(30, max(share) + 1)))
        line(ax, number, xs, [share.get(x, 0.0) for x in xs], name)
    ax.set(xlabel="position of the token routed first", ylabel="share of the queries")
    ax.legend()
    save(made, path)


def robustness(steps: dict[str, Any], out: Path) -> None:
    """One panel per kind of disturbance and dataset."""
    found = [step["results"] for step in steps.values()]
    labels = {"passages": "tokens a passage", "queries": "tokens a query", "typos": "share of words misspelt"}
    panels = list(dict.fromkeys((f["kind"], f["dataset"]) for f in found))
    made, axes = figure(2, -(-len(panels) // 2))
    for ax, (kind, dataset) in zip(axes, panels, strict=False):
        rows = sorted((f for f in found if (f["kind"], f["dataset"]) == (kind, dataset)), key=lambda f: f["value"])
        for number, method in enumerate(rows[0]["methods"]):
            ys = [row["methods"][method]["nDCG@10"] for row in rows]
            line(ax, number, [row["value"] for row in rows], ys, method)
        ax.set(xlabel=labels[kind], ylabel="nDCG@10", title=dataset)
        if kind != "typos":
            ax.set_xscale("log")
            ax.set_xticks([row["value"] for row in rows], [str(row["value"]) for row in rows])
            ax.minorticks_off()
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    axes[0].legend(fontsize=7)
    save(made, out / "robustness.svg")
