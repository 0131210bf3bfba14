// view.js: which span of time is shown, and how a time becomes a place.

const SHORTEST = 100; // ns across the picture: what clocks tell apart
// Some room at both ends, so that what begins or ends with the recording is seen to.
const EDGE = 0.015;
const WHOLE = Math.max(DURATION, SHORTEST);

const view = { from: 0, to: WHOLE, scroll: 0 };

const room = () => Math.max(1, layout.width - layout.left);
const perNs = () => room() / (view.to - view.from);
const toX = (time) => layout.left + (time - view.from) * perNs();
const toTime = (x) => view.from + (x - layout.left) / perNs();

function show(from, to) {
  const least = -WHOLE * EDGE, most = WHOLE * (1 + EDGE);
  const span = Math.min(most - least, Math.max(SHORTEST, to - from));
  if (to - from !== span) from = (from + to) / 2 - span / 2;
  view.from = Math.min(Math.max(from, least), most - span);
  view.to = view.from + span;
  redraw();
}

// What has anything, with some room beside it, is where the page opens; that may be all.
const HOME = ABOUT.shown[1] - ABOUT.shown[0] < DURATION ? ABOUT.shown : [-WHOLE * EDGE, WHOLE * (1 + EDGE)];
const fitAll = () => show(-WHOLE * EDGE, WHOLE * (1 + EDGE));

// There already: the whole recording.
function fit() {
  const same = (one, other) => Math.abs(one - other) < 1;
  if (same(view.from, HOME[0]) && same(view.to, HOME[1])) fitAll();
  else show(...HOME);
}

// Keep the time under x where it is.
function zoom(factor, x = layout.left + room() / 2) {
  const time = toTime(x), span = (view.to - view.from) * factor;
  if (span < SHORTEST && factor < 1) factor = SHORTEST / (view.to - view.from);
  show(time - (time - view.from) * factor, time + (view.to - time) * factor);
}

const pan = (pixels) => show(view.from + pixels / perNs(), view.to + pixels / perNs());

function scrollTo(y) {
  const box = document.getElementById("scroll");
  box.scrollTop = Math.max(0, Math.min(y, layout.total + TOP - layout.height));
  view.scroll = box.scrollTop;
  redraw();
}

// Have a slice be seen whole, or its larger part; if it is and is wide enough to be read, nothing moves.
function reveal(slice) {
  const span = Math.max(end[slice] - start[slice], 1), shown = view.to - view.from;
  const wide = span * perNs() >= 8, inside = start[slice] >= view.from && end[slice] <= view.to;
  if (!wide) {
    show(start[slice] - span * 15, end[slice] + span * 15);
  } else if (!inside) {
    const middle = span < shown * 0.8 ? (start[slice] + end[slice]) / 2 : start[slice] + shown * 0.4;
    show(middle - shown / 2, middle + shown / 2);
  }
  const [top, height] = laneBox(laneOf(slice)), visible = layout.height - TOP;
  if (top < view.scroll + above() || top + height > view.scroll + visible) scrollTo(top - (visible - height) / 2);
}

const zoomTo = (slice) => {
  const span = Math.max(end[slice] - start[slice], SHORTEST);
  show(start[slice] - span / 4, end[slice] + span / 4);
  reveal(slice);
};

// Round numbers for the axis: 1, 2 or 5 times a power of ten, at least so many pixels apart.
function tickStep(pixels) {
  const least = pixels / perNs(), power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].find((times) => times * power >= least) * power;
}
