// details.js: what is known of a slice, in a tooltip and in a panel, and what lights up with it. Only textContent is set.

const FARTHEST = 4000; // slices that one selection may light
const LISTED = 40;
const ARROWS = 400;

function element(tag, words, attributes = {}) {
  const made = Object.assign(document.createElement(tag), attributes);
  if (words !== undefined) made.textContent = words;
  return made;
}

// Everything that can be reached in one direction, itself left out.
function reach(from, next) {
  const found = new Set(), left = [...from];
  while (left.length && found.size < FARTHEST) {
    for (const other of next(left.pop()) ?? []) {
      if (!found.has(other)) {
        found.add(other);
        left.push(other);
      }
    }
  }
  return found;
}

// What a slice depends on and what depends on it, as a set of slices, and arrows between them.
function related(slice) {
  const fences = new Set(isWait(slice) ? awaited.get(slice) : [slice]);
  if (isWait(slice) && waitOf(slice).wokenBy !== null) fences.add(waitOf(slice).wokenBy);
  for (const other of reach(fences, (fence) => inputs.get(fence))) fences.add(other);
  const made = isWait(slice) ? [] : reach([slice], (fence) => outputs.get(fence));
  const waiting = new Set(isWait(slice) ? [slice] : [slice, ...made].flatMap((fence) => waitsFor.get(fence) ?? []));
  const all = new Set([slice, ...fences, ...made, ...waiting]);
  const links = [];
  for (const one of all) {
    for (const other of isWait(one) ? awaited.get(one) : inputs.get(one) ?? []) {
      if (all.has(other) && links.length < ARROWS) links.push([other, one]);
    }
  }
  return { all, links };
}

function markAt(track, x) {
  const { times, text: told } = track.marks;
  const at = lowerBound(times, 0, times.length, toTime(x - 4));
  return at < times.length && toX(times[at]) <= x + 4 ? `${told(at)} at ${moment(times[at])}` : null;
}

// What is under a place of the canvas: a slice, or the words of a mark, or nothing.
function under(x, y) {
  const track = y >= TOP && x >= layout.left ? tracks[trackAt(y - TOP + view.scroll)] : undefined;
  if (!track || y - TOP + view.scroll >= layout.total) return {};
  const lane = track.lanes[0] + Math.floor((y - TOP + view.scroll - layout.tops[track.number] - lanesTop(track)) / laneHeight(track));
  if (lane >= track.lanes[0] && lane < track.lanes[1]) {
    const near = 3 / perNs(), time = toTime(x);
    const after = lowerBound(start, laneFrom[lane], laneTo[lane], time + near);
    // The one that begins last before the pointer, unless the next is nearer than its end.
    const away = (slice) => Math.max(start[slice] - time, time - end[slice], 0);
    const some = [after - 1, after - 2].filter((slice) => slice >= laneFrom[lane] && away(slice) <= near);
    if (some.length) return { slice: some.sort((one, other) => away(one) - away(other))[0] };
  }
  const mark = track.marks ? markAt(track, x) : null;
  return mark ? { mark } : {};
}

function tip(x, y, found) {
  const tooltip = document.getElementById("tooltip");
  // The panel has all of what is selected already.
  tooltip.hidden = (found.slice === undefined || found.slice === state.selected) && !found.mark;
  if (tooltip.hidden) return;
  if (found.mark) tooltip.replaceChildren(element("p", found.mark));
  else {
    const list = element("dl");
    for (const [what, words] of factsOf(found.slice, true)) list.append(element("dt", what), element("dd", words));
    const state = element("p", outcome(found.slice), { className: stateClass(found.slice) });
    tooltip.replaceChildren(element("strong", nameOf(found.slice)), state, list);
  }
  // Below and right of the pointer, else on the side where there is room.
  const { width, height } = tooltip.getBoundingClientRect();
  const across = x + 16 + width < innerWidth ? x + 16 : Math.max(4, Math.min(x - 16 - width, innerWidth - width - 4));
  const down = y + 16 + height < innerHeight ? y + 16 : Math.max(4, y - 16 - height);
  tooltip.style.left = `${across}px`;
  tooltip.style.top = `${down}px`;
}

const stateClass = (slice) => errors.has(slice) ? "state bad" : open[slice] ? "state never" : "state";

function listOf(title, slices, say) {
  if (!slices.length) return [];
  const list = element("ul");
  for (const slice of slices.slice(0, LISTED)) {
    const item = element("li"), link = element("button", nameOf(slice), { className: "link" });
    link.addEventListener("click", () => select(slice, { focus: true }));
    item.append(link, element("span", say(slice)));
    list.append(item);
  }
  if (slices.length > LISTED) list.append(element("li", `and ${slices.length - LISTED} more`));
  return [element("h3", `${title} (${slices.length.toLocaleString("en")})`), list];
}

function fillPanel(slice, focus) {
  const panel = document.getElementById("panel");
  panel.hidden = slice === null;
  if (slice === null) return;
  const facts = element("dl");
  for (const [what, words] of factsOf(slice)) facts.append(element("dt", what), element("dd", words));
  const close = element("button", "×", { id: "close", title: "Select nothing (Esc)", ariaLabel: "Select nothing" });
  close.addEventListener("click", () => select(null));
  const buttons = element("div", undefined, { className: "group" });
  for (const [words, act, keys] of [
    ["Previous", () => select(neighbour(slice, -1), { focus: true }), "p or ←"],
    ["Next", () => select(neighbour(slice, 1), { focus: true }), "n or →"],
    ["Zoom to it", () => zoomTo(slice), "z"],
  ]) {
    const button = element("button", words, { title: keys });
    button.addEventListener("click", act);
    buttons.append(button);
  }
  const heading = element("h2", nameOf(slice), { tabIndex: -1 });
  const state = element("p", outcome(slice), { className: stateClass(slice) });
  const lists = isWait(slice)
    ? listOf("Waits for", awaited.get(slice), outcome)
    : [
      ...listOf("Made of", inputs.get(slice) ?? [], outcome),
      ...listOf("Part of", outputs.get(slice) ?? [], outcome),
      ...listOf("Waited for by", waitsFor.get(slice) ?? [], outcome),
    ];
  panel.replaceChildren(close, heading, state, buttons, facts, ...lists);
  panel.scrollTop = 0;
  if (focus) heading.focus();
}

// Select a slice, or with null none. focus: a link of the panel was used, which is gone; its heading is read instead.
function select(slice, { focus = false, move = true } = {}) {
  state.selected = slice;
  const found = slice === null ? null : related(slice);
  state.links = found ? found.links : [];
  light(found ? found.all : searched.words ? searched.found : null);
  fillPanel(slice, focus);
  const more = found ? found.all.size - 1 : 0;
  say(slice === null ? "Nothing is selected" : `${nameOf(slice)}, ${outcome(slice)}${more ? `, ${more} related` : ""}`);
  resize(); // the panel takes room, or gives it back
  if (slice !== null && move) reveal(slice);
  redraw();
}

function say(words) {
  document.getElementById("said").textContent = words;
}
