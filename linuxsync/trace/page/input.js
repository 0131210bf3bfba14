// input.js: the mouse, fingers and keys, and the search field.

const byId = (id) => document.getElementById(id);
const searched = { words: "", found: [], at: -1 };
const CLICK = 4; // pixels that a finger or a mouse may move in a click

// The words of the field: what they mean lights up, in the number that is shown.
function search(words) {
  const found = words.trim() ? find(words) : [];
  Object.assign(searched, { words: words.trim(), found: found ?? [], at: -1 });
  if (state.selected !== null) select(null);
  light(searched.words && found ? searched.found : null);
  const stray = found?.length === 0 ? unknown(words) : null;
  showMatches(stray ? `unknown word ${stray.length > 20 ? `${stray.slice(0, 19)}…` : stray}` : found ? "" : "slow:>4ms?");
  redraw();
}

// wrong: what is said instead of a number.
function showMatches(wrong = "") {
  const { words, found, at } = searched, none = words !== "" && !found.length;
  const count = found.length.toLocaleString("en");
  const told = wrong || (at < 0 ? many(found.length, "match", "matches") : `${(at + 1).toLocaleString("en")} of ${count}`);
  byId("matches").textContent = words ? told : "";
  byId("searching").classList.toggle("none", none);
  byId("next").disabled = byId("previous").disabled = !found.length;
}

// Go to the next match, the first time to the first one that is in sight or later.
function step(by) {
  const { found } = searched;
  if (!found.length) return;
  const first = found.findIndex((slice) => end[slice] >= view.from);
  const count = found.length;
  searched.at = searched.at >= 0 ? (searched.at + by + count) % count : by > 0 ? Math.max(0, first) : count - 1;
  select(found[searched.at]);
  showMatches();
}

// A selected slice's neighbour on its track; without one the first that is in sight, from the top.
function go(by) {
  if (state.selected !== null) return select(neighbour(state.selected, by));
  const top = trackAt(view.scroll);
  for (const track of [...tracks.slice(Math.max(0, top)), ...tracks.slice(0, Math.max(0, top))]) {
    const order = inOrder(track);
    if (order.length) return select(order[Math.min(order.length - 1, lowerBound(track.starts, 0, order.length, view.from))]);
  }
  return undefined;
}

function vertically(by) {
  if (state.selected === null) return scrollTo(view.scroll + by * 60);
  const seen = Math.max(start[state.selected], Math.min(end[state.selected], (view.from + view.to) / 2));
  return select(across(state.selected, by, seen));
}

const ARROW = 0.15; // of the picture's width
const KEYS_OF = {
  "+": () => zoom(1 / 1.5), "=": () => zoom(1 / 1.5), w: () => zoom(1 / 1.5),
  "-": () => zoom(1.5), _: () => zoom(1.5), s: () => zoom(1.5),
  a: () => pan(-room() * ARROW), d: () => pan(room() * ARROW),
  ArrowLeft: () => state.selected === null ? pan(-room() * ARROW) : go(-1),
  ArrowRight: () => state.selected === null ? pan(room() * ARROW) : go(1),
  ArrowUp: () => vertically(-1), ArrowDown: () => vertically(1),
  PageUp: () => scrollTo(view.scroll - layout.height + TOP), PageDown: () => scrollTo(view.scroll + layout.height - TOP),
  n: () => go(1), p: () => go(-1), f: fit, 0: fit, F: fitAll,
  z: () => state.selected !== null && zoomTo(state.selected),
  t: () => switchTheme(),
  "/": () => {
    byId("search").focus();
    byId("search").select();
  },
  "?": () => byId("help").showModal(),
  Escape: () => {
    if (state.selected !== null) return select(null);
    byId("search").value = "";
    return search("");
  },
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const field = event.target === byId("search");
  if (field) {
    if (event.key === "Enter") {
      if (byId("search").value.trim() !== searched.words) search(byId("search").value); // who is faster than the timer
      step(event.shiftKey ? -1 : 1);
    } else if (event.key === "Escape") {
      byId("search").value = "";
      search("");
      canvas.focus();
    } else return;
  } else {
    if (!Object.hasOwn(KEYS_OF, event.key)) return;
    // The arrows scroll a panel that has the focus, too: there they are its own.
    if (event.key.startsWith("Arrow") && byId("panel").contains(event.target) && event.target.tagName !== "H2") return;
    KEYS_OF[event.key]();
  }
  event.preventDefault();
}

const placeOf = (event) => {
  const { left, top } = canvas.getBoundingClientRect();
  return { x: event.clientX - left, y: event.clientY - top };
};

function onWheel(event) {
  event.preventDefault();
  const unit = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? layout.height : 1;
  const { x, y } = placeOf(event), across = event.deltaX * unit, down = event.deltaY * unit;
  if (event.shiftKey && !event.ctrlKey) pan(across || down);
  else if (x < layout.left && y > TOP) scrollTo(view.scroll + down);
  else if (Math.abs(across) > Math.abs(down)) pan(across);
  // Two fingers on a touchpad come as a wheel with Ctrl, in smaller steps.
  else zoom(Math.exp(Math.max(-400, Math.min(400, down)) * (event.ctrlKey ? 0.01 : 0.0018)), Math.max(x, layout.left));
}

const fingers = new Map(); // pointers that are down, and where they were last
let grip = null; // what a drag does: {kind, begin, moved}

function onDown(event) {
  if (event.button !== 0) return;
  const at = placeOf(event);
  try {
    canvas.setPointerCapture(event.pointerId);
  } catch {
    // The pointer was lifted meanwhile.
  }
  fingers.set(event.pointerId, at);
  grip = { kind: at.y < OVERVIEW ? "overview" : event.shiftKey ? "span" : "pan", begin: at, moved: fingers.size > 1 };
  if (grip.kind === "overview") centre(at.x);
  if (grip.kind === "span") state.span = [toTime(at.x), toTime(at.x)];
}

function onMove(event) {
  const at = placeOf(event), before = fingers.get(event.pointerId);
  state.pointer = event.pointerType === "mouse" ? at : null;
  if (!before) {
    hover(event, at);
    redraw();
    return;
  }
  grip.moved ||= Math.hypot(at.x - grip.begin.x, at.y - grip.begin.y) > CLICK;
  const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
  fingers.set(event.pointerId, at);
  if (!grip.moved) return;
  tip(0, 0, {});
  if (others.length) pinch(others[0], before, at);
  else if (grip.kind === "overview") centre(at.x);
  else if (grip.kind === "span") state.span = [state.span[0], toTime(at.x)];
  else {
    canvas.classList.add("held");
    pan(before.x - at.x);
    if (before.y !== at.y) scrollTo(view.scroll + before.y - at.y);
  }
  redraw();
}

// Two fingers: the time between them stays between them.
function pinch(other, before, at) {
  const apart = (place) => Math.max(20, Math.abs(place.x - other.x));
  zoom(apart(before) / apart(at), (at.x + other.x) / 2);
  pan((before.x - at.x) / 2);
}

function centre(x) {
  const half = (view.to - view.from) / 2;
  show(overviewTime(x) - half, overviewTime(x) + half);
}

function onUp(event) {
  const at = placeOf(event);
  if (!fingers.delete(event.pointerId) || fingers.size) return;
  canvas.classList.remove("held");
  if (state.span) {
    const [from, to] = state.span.sort((one, other) => one - other);
    state.span = null;
    if (grip.moved) show(from, to);
  } else if (!grip.moved && grip.kind === "pan" && event.type === "pointerup") {
    const { slice } = under(at.x, at.y);
    select(slice ?? null, { move: false });
  }
  grip = null;
  redraw();
}

function hover(event, at) {
  const found = event.pointerType === "mouse" ? under(at.x, at.y) : {};
  state.hover = found.slice ?? null;
  canvas.classList.toggle("over", found.slice !== undefined);
  tip(event.clientX, event.clientY, found);
}

function onLeave() {
  state.pointer = state.hover = null;
  tip(0, 0, {});
  redraw();
}

function listen() {
  document.addEventListener("keydown", onKey);
  canvas.addEventListener("wheel", onWheel, { passive: false });
  canvas.addEventListener("pointerdown", onDown);
  canvas.addEventListener("pointermove", onMove);
  canvas.addEventListener("pointerup", onUp);
  canvas.addEventListener("pointercancel", onUp);
  canvas.addEventListener("pointerleave", onLeave);
  byId("scroll").addEventListener("scroll", () => {
    view.scroll = byId("scroll").scrollTop;
    redraw();
  });
  let later = 0; // not for each letter of who types fast
  byId("search").addEventListener("input", () => {
    clearTimeout(later);
    const words = byId("search").value;
    later = setTimeout(() => words.trim() === searched.words || search(words), FENCES > 20000 ? 120 : 0);
  });
  const buttons = {
    next: () => step(1), previous: () => step(-1), fit: (event) => event.shiftKey ? fitAll() : fit(), "zoom-in": () => zoom(1 / 1.5), "zoom-out": () => zoom(1.5),
    theme: switchTheme, helping: () => byId("help").showModal(),
  };
  for (const [id, act] of Object.entries(buttons)) byId(id).addEventListener("click", act);
}
