// paint.js: the colours of the theme, and what is drawn from them. Every primitive is counted: a test reads how many a
// frame took, so that drawing stays a matter of pixels and not of fences.

const canvas = document.getElementById("canvas");
const pen = canvas.getContext("2d", { alpha: false });
const stats = { frames: 0, primitives: 0 };
const FONT = 'system-ui, "Segoe UI", "DejaVu Sans", sans-serif';
const HUES = 5;
let ink = {};
let hatches = [];

// The style sheet has the colours, of both themes; an element is asked what they are now.
function readTheme() {
  const probe = document.createElement("i");
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const names = ["bg", "band", "line", "grid", "text", "muted", "accent", "error", "wait", "wait-line", "on-hue", "shade"];
  ink = Object.fromEntries(names.map((name) => [name, colour(name)]));
  ink.hues = Array.from({ length: HUES }, (_, hue) => colour(`hue${hue}`));
  probe.remove();
  hatches = [...ink.hues, ink["wait-line"]].map(hatch);
}

// Diagonal lines: what never signaled is told from the rest without its colour.
function hatch(colour) {
  const tile = document.createElement("canvas"), size = 8;
  tile.width = tile.height = size;
  const brush = tile.getContext("2d");
  brush.globalAlpha = 0.22;
  brush.fillStyle = colour;
  brush.fillRect(0, 0, size, size);
  brush.globalAlpha = 1;
  brush.strokeStyle = colour;
  brush.lineWidth = 1.8;
  brush.beginPath();
  for (const shift of [-size, 0, size]) {
    brush.moveTo(shift, size);
    brush.lineTo(shift + size, 0);
  }
  brush.stroke();
  return pen.createPattern(tile, "repeat");
}

const fillOf = (track) => track.hue < 0 ? ink.wait : ink.hues[track.hue];
const fillOfMarks = (track) => track.kind === "marks" ? ink.muted : ink.hues[track.hue];
const hatchOf = (track) => hatches[track.hue < 0 ? HUES : track.hue];

function box(x, y, width, height) {
  stats.primitives++;
  pen.fillRect(x, y, width, height);
}

function line(x0, y0, x1, y1) {
  stats.primitives++;
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}

function shape(points, closed = true) {
  stats.primitives++;
  pen.beginPath();
  points.forEach(([x, y]) => pen.lineTo(x, y));
  if (closed) pen.closePath();
}

function write(words, x, y) {
  stats.primitives++;
  pen.fillText(words, x, y);
}

// A text cut to a width, with an ellipsis. Names of tracks come again in each frame: what was measured is kept.
const cuts = new Map();
function cut(words, width) {
  const key = `${pen.font}|${Math.floor(width)}|${words}`;
  if (!cuts.has(key)) {
    if (cuts.size > 5000) cuts.clear();
    let kept = words;
    if (pen.measureText(words).width > width) {
      let [fits, toomany] = [0, Math.min(words.length, 400)];
      while (toomany - fits > 1) {
        const half = (fits + toomany) >> 1;
        if (pen.measureText(`${words.slice(0, half)}…`).width <= width) fits = half;
        else toomany = half;
      }
      kept = fits ? `${words.slice(0, fits)}…` : "";
    }
    cuts.set(key, kept);
  }
  return cuts.get(key);
}

// An arrow from a signal to what it did, bowed to the right, where the slice that ended leaves room. inside: half the
// height of a slice that goes on then: the arrow ends on its edge, so that its name can be read.
function arrow(x0, y0, x1, y1, inside = 0) {
  const bow = 10 + Math.min(26, Math.abs(y1 - y0) / 6), side = y0 < y1 ? -1 : 1, y = y1 + side * inside;
  pen.beginPath();
  pen.moveTo(x0, y0);
  if (inside) pen.bezierCurveTo(x0 + bow, y0, x1, (y0 + y) / 2, x1, y + side * 6);
  else pen.bezierCurveTo(x0 + bow, y0, x1 + bow, y1, x1 + 5, y1);
  for (const [width, colour] of [[4, ink.bg], [1.6, ink.accent]]) {
    pen.lineWidth = width;
    pen.strokeStyle = colour;
    pen.stroke();
  }
  pen.fillStyle = ink.accent;
  if (inside) shape([[x1, y], [x1 - 4, y + side * 7], [x1 + 4, y + side * 7]]);
  else shape([[x1, y1], [x1 + 7, y1 - 4], [x1 + 7, y1 + 4]]);
  pen.fill();
  stats.primitives += 2;
}
