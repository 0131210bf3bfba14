// main.js: the head of the page, the themes, and the start.

function switchTheme() {
  const root = document.documentElement, dark = getComputedStyle(canvas).colorScheme.trim() === "dark"
    || (root.style.colorScheme === "" && matchMedia("(prefers-color-scheme: dark)").matches);
  root.style.colorScheme = dark ? "light" : "dark";
  newTheme();
}

function newTheme() {
  readTheme();
  overview = null;
  redraw();
}

function head() {
  const facts = [
    ["", ABOUT.command],
    ["", many(FENCES, "fence")],
    ["", duration(DURATION)],
    ["", ABOUT.part],
    ["began ", ABOUT.began],
    ["Linux ", ABOUT.kernel],
    ["on ", ABOUT.machine],
  ];
  for (const [before, words] of facts) {
    if (words) byId("facts").append(element("li", before + words, { title: before + words }));
  }
  const notices = ABOUT.damage.map((words) => `The file is damaged: ${words}`);
  if (ABOUT.lost) {
    notices.unshift(`${many(ABOUT.lost, "event")} lost while recording, of ${(ABOUT.lost + ABOUT.events).toLocaleString("en")}: `
      + "what is shown may be half of the truth, and a fence without a signal may have signaled.");
  }
  byId("notices").hidden = !notices.length;
  byId("notices").append(...notices.map((words) => element("p", words)));
  byId("nothing").hidden = tracks.length > 0;
  byId("summary").textContent = `${many(FENCES, "fence")} on ${many(tracks.filter((one) => one.kind === "timeline").length, "timeline")}`
    + `, ${many(SLICES - FENCES, "wait")}, in ${duration(DURATION)}. Press ? for keys.`;
  document.title = `${ABOUT.command || "linuxsync trace"}: ${many(FENCES, "fence")}, ${duration(DURATION)}`;
  const pale = [DATA.fences.pale].flat().some((lasts) => lasts > 0);
  if (!pale) byId("legend").querySelector(".early").parentElement.remove();
  byId("help-legend").append(...[...byId("legend").children].map((item) => item.cloneNode(true)));
}

head();
readTheme();
listen();
resize();
show(...HOME);
new ResizeObserver(() => requestAnimationFrame(resize)).observe(byId("scroll"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", newTheme);

// For tests, and for who looks from the console: what is shown, and where things are in CSS pixels of the window.
window.linuxsyncTrace = {
  stats, view, state, searched, tracks, slices: SLICES, fences: FENCES, find, nameOf, outcome, draw,
  lit: () => state.lit === null ? null : [...state.lit.keys()].filter((slice) => state.lit[slice]),
  where(slice) {
    const { left, top } = canvas.getBoundingClientRect(), [y, height] = laneBox(laneOf(slice));
    const middle = (Math.max(start[slice], view.from) + Math.min(end[slice], view.to)) / 2;
    return { x: left + toX(middle), y: top + TOP + y - view.scroll + height / 2 };
  },
};
