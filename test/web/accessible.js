// What is shown of the page is checked: contrast by WCAG 2.1 AA, and roles and references by WAI-ARIA 1.2. The value is the list of what is wrong, and of how many things that was asked.
(() => {
  document.getAnimations().forEach((a) => a instanceof CSSTransition && a.finish());
  const wrong = [];
  let texts = 0, roles = 0;
  const say = (e) => {
    const mark = e.dataset?.test ?? e.closest("[data-test]")?.dataset.test ?? e.id;
    return `<${e.localName}${e.getAttribute("role") ? " role=" + e.getAttribute("role") : ""}> of ${mark || "the page"} (${(e.innerText || e.value || e.getAttribute("aria-label") || "").trim().slice(0, 40)})`;
  };

  // Colours, as [r, g, b, a] with 0 to 1.
  const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parsed = new Map();
  const parse = (css) => {
    if (!parsed.has(css)) {
      const m = /^rgba?\(([\d.]+), ([\d.]+), ([\d.]+)(?:, ([\d.]+))?\)$/.exec(css);
      if (m) parsed.set(css, [m[1] / 255, m[2] / 255, m[3] / 255, m[4] === undefined ? 1 : Number(m[4])]);
      else {
        pixel.clearRect(0, 0, 1, 1);
        pixel.fillStyle = css;
        pixel.fillRect(0, 0, 1, 1);
        parsed.set(css, [...pixel.getImageData(0, 0, 1, 1).data].map((v) => v / 255));
      }
    }
    return parsed.get(css);
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const luminance = (c) => [0, 1, 2].map((i) => (c[i] <= 0.04045 ? c[i] / 12.92 : ((c[i] + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (a, b) => {
    const [x, y] = [luminance(a), luminance(b)].sort((m, n) => n - m);
    return (x + 0.05) / (y + 0.05);
  };
  const background = (e) => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) {
      const c = parse(getComputedStyle(at).backgroundColor);
      if (c[3] > 0) layers.push(c);
      if (c[3] === 1) break;
    }
    const page = matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0, 1] : [1, 1, 1, 1];
    return layers.reduceRight((below, top) => over(top, below), page);
  };
  const opacity = (e) => {
    let o = 1;
    for (let at = e; at; at = at.parentElement) o *= Number(getComputedStyle(at).opacity);
    return o;
  };
  const shown = (e) => e.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && !e.closest("[data-hidden-visually]");
  const off = (e) => e.closest(":disabled, [aria-disabled=true], [data-disabled=true]") || (e.closest("label") && e.closest("label").control?.disabled);
  const readable = (e, style, what) => {
    texts++;
    const below = background(e);
    const color = parse(style.color).slice();
    color[3] *= opacity(e) * (what === "placeholder" ? Number(style.opacity || 1) : 1);
    const size = parseFloat(style.fontSize);
    const need = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    const got = contrast(over(color, below), below);
    if (got < need) wrong.push(`${what} of ${say(e)} has a contrast of ${got.toFixed(2)}, less than ${need}: ${style.color} on rgb(${below.slice(0, 3).map((v) => Math.round(v * 255)).join(", ")})`);
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const done = new Set();
  for (let n = walk.nextNode(); n; n = walk.nextNode()) {
    const e = n.parentElement;
    if (n.data.trim() === "" || done.has(e) || ["SCRIPT", "STYLE", "NOSCRIPT", "OPTION"].includes(e.tagName) || !shown(e) || off(e)) continue;
    const box = e.getBoundingClientRect();
    if (box.width <= 1 || box.height <= 1 || box.right < 0) continue; // for screen readers only, or until it has the focus
    done.add(e);
    readable(e, getComputedStyle(e), "text");
  }
  for (const e of document.querySelectorAll("input:not([type=checkbox], [type=radio], [type=file], [type=hidden]), textarea")) {
    if (!shown(e) || off(e)) continue;
    if (e.value !== "") readable(e, getComputedStyle(e), "value");
    else if (e.placeholder) readable(e, getComputedStyle(e, "::placeholder"), "placeholder");
  }

  // Roles that need one around them, with none but those without meaning between.
  const within = { row: ["grid", "treegrid", "table", "rowgroup"], rowgroup: ["grid", "treegrid", "table"], gridcell: ["row"], columnheader: ["row"], rowheader: ["row"], option: ["listbox", "group"], menuitem: ["menu", "menubar", "group"], tab: ["tablist"], listitem: ["list"] };
  const byRole = (r) => [...document.querySelectorAll(`[role="${r}"]`)];
  for (const [role, parents] of Object.entries(within)) {
    for (const e of byRole(role)) {
      roles++;
      let up = e.parentElement;
      while (up && !(up.getAttribute("role") && !["presentation", "none"].includes(up.getAttribute("role")))) up = up.parentElement;
      if (!up || !parents.includes(up.getAttribute("role"))) wrong.push(`${say(e)} is in ${up ? say(up) : "nothing"}, and has to be in one of ${parents}`);
    }
  }
  // One thing has the focus for another only where its role has it so.
  for (const e of document.querySelectorAll("[aria-activedescendant]")) {
    roles++;
    const role = e.getAttribute("role") ?? (e.localName === "input" ? "textbox" : e.localName);
    const id = e.getAttribute("aria-activedescendant");
    const active = document.getElementById(id);
    if (!["grid", "treegrid", "listbox", "combobox", "menu", "menubar", "tree", "tablist", "radiogroup", "textbox", "searchbox", "toolbar", "group", "application"].includes(role)) wrong.push(`${say(e)}: aria-activedescendant is not for the role ${role}`);
    else if (e.tabIndex < 0) wrong.push(`${say(e)} has aria-activedescendant and is not reached by Tab`);
    if (id !== "" && !active) wrong.push(`${say(e)}: aria-activedescendant names ${id}, which is not in the page`);
    else if (active && ["grid", "treegrid"].includes(role) && !e.contains(active)) wrong.push(`${say(e)}: aria-activedescendant names what is not in it`);
  }
  // Of a grid that has only some of its rows in the page, rows and columns say which they are.
  for (const grid of byRole("grid")) {
    const total = Number(grid.getAttribute("aria-rowcount")), columns = Number(grid.getAttribute("aria-colcount"));
    const rows = [...grid.querySelectorAll("[role=row]")].map((r) => ({ r, at: Number(r.getAttribute("aria-rowindex")) }));
    if (!(total >= rows.length && rows.length > 0)) wrong.push(`${say(grid)}: aria-rowcount is ${total}, and ${rows.length} rows are in the page`);
    const seen = new Set();
    let last = 0;
    for (const { r, at } of rows) {
      if (!(at >= 1 && at <= total) || seen.has(at)) wrong.push(`${say(r)}: aria-rowindex is ${at} of ${total}`);
      if (at < last) wrong.push(`${say(r)}: aria-rowindex ${at} comes after ${last}`);
      seen.add(at);
      last = at;
      const cells = [...r.querySelectorAll("[role=gridcell], [role=columnheader], [role=rowheader]")];
      cells.forEach((c, i) => {
        const col = c.getAttribute("aria-colindex") === null && cells.length === columns ? i + 1 : Number(c.getAttribute("aria-colindex"));
        if (col !== i + 1 && !(col > i && col <= columns)) wrong.push(`${say(c)} is column ${col} of ${columns}`);
      });
    }
  }
  // What names and describes is there, and ids are of one thing.
  for (const attr of ["aria-labelledby", "aria-describedby", "aria-errormessage"]) {
    for (const e of document.querySelectorAll(`[${attr}]`)) for (const id of e.getAttribute(attr).split(/\s+/)) if (id !== "" && shown(e) && !document.getElementById(id)) wrong.push(`${say(e)}: ${attr} names ${id}, which is not in the page`);
  }
  const ids = new Set();
  for (const e of document.querySelectorAll("[id]")) {
    if (ids.has(e.id)) wrong.push(`${say(e)}: its id ${e.id} is that of another one, too`);
    ids.add(e.id);
  }
  for (const e of document.querySelectorAll("[aria-hidden=true]")) {
    const stop = [...e.querySelectorAll("a[href], button, input, select, textarea, [tabindex]"), e].find((x) => x.tabIndex >= 0 && !x.disabled && shown(x) && x.matches("a[href], button, input, select, textarea, [tabindex]"));
    if (stop && !stop.closest("[inert]") && !document.querySelector("[role=dialog]")) wrong.push(`${say(stop)} is reached by Tab and hidden from screen readers`);
  }
  // The page says what it is.
  const heads = [...document.querySelectorAll("h1")].filter((h) => h.checkVisibility());
  if (heads.length !== 1) wrong.push(`the page has ${heads.length} headings of the first level`);
  if (!/^\S.* - rackfs$/.test(document.title)) wrong.push(`the title of the page is ${JSON.stringify(document.title)}`);
  if (document.documentElement.lang === "") wrong.push("the page has no language");
  if (document.querySelectorAll("main").length !== 1) wrong.push("the page has no main part");
  return { Wrong: wrong, Texts: texts, Roles: roles };
})()
