// The pages' one script: search, keyboard access to what scrolls sideways, nothing folded away on paper.
"use strict";

// Search. The index is one script file, loaded when somebody first looks for something: a page that is opened from a
// folder may load a script, but not fetch a file.
(() => {
  const form = document.querySelector("form[role=search]");
  const field = form.querySelector("input");
  const status = form.querySelector("[role=status]");
  const list = form.querySelector("ol");
  const SHOWN = 20;
  let entries = null;

  const fold = (text) => text.toLowerCase().normalize("NFD").replace(/\p{M}/gu, "");
  const starts = (word) => new RegExp(`(?<![\\p{L}\\p{N}_])${word}`, "gu"); // a word begins so; it is of letters only
  const count = (text, pattern) => (text.match(pattern) || []).length;

  window.flekeSearch = (found) => {
    entries = found.map((entry) => ({ ...entry, folded: [entry.heading, entry.page, entry.text].map(fold) }));
    look();
  };

  function load() {
    if (document.querySelector("script[data-search]")) return;
    const script = document.createElement("script");
    script.src = form.dataset.index;
    script.dataset.search = "";
    script.onerror = () => { status.textContent = "The search needs the site's other files beside this page."; };
    document.head.append(script);
  }

  // Every word of the question must begin a word of the section; a word in a heading weighs most.
  function score({ folded: [heading, page, text] }, patterns) {
    let sum = 0;
    for (const pattern of patterns) {
      const value = 10 * count(heading, pattern) + 3 * count(page, pattern) + Math.min(5, count(text, pattern));
      if (!value) return 0;
      sum += value;
    }
    return sum;
  }

  function excerpt(text, patterns) {
    const folded = fold(text);
    const first = Math.min(...patterns.map((pattern) => folded.search(pattern)).filter((at) => at >= 0), text.length);
    const from = first < text.length ? Math.max(0, text.lastIndexOf(" ", Math.max(0, first - 50))) : 0;
    return (from ? "… " : "") + text.slice(from, from + 180).trim() + (from + 180 < text.length ? " …" : "");
  }

  function marked(text, patterns) {
    const span = document.createElement("span");
    const folded = fold(text); // of the text's own length, except for rare letters that fold to more
    const hits = patterns.flatMap((pattern) => [...folded.matchAll(pattern)].map((hit) => [hit.index, hit[0].length]));
    let at = 0;
    for (const [start, length] of folded.length === text.length ? hits.sort((a, b) => a[0] - b[0]) : []) {
      if (start < at) continue;
      const mark = document.createElement("mark");
      mark.textContent = text.slice(start, start + length);
      span.append(text.slice(at, start), mark);
      at = start + length;
    }
    span.append(text.slice(at));
    return span;
  }

  function item(entry, patterns) {
    const element = document.createElement("li");
    const link = document.createElement("a");
    link.href = entry.address;
    link.append(marked(entry.heading, patterns));
    element.append(link);
    if (entry.heading !== entry.page) element.append(` ${entry.page}`);
    const text = document.createElement("p");
    text.append(marked(excerpt(entry.text, patterns), patterns));
    element.append(text);
    return element;
  }

  function look() {
    const patterns = (fold(field.value).match(/[\p{L}\p{N}_]+/gu) || []).map(starts);
    list.replaceChildren();
    form.classList.toggle("open", patterns.length > 0);
    if (!patterns.length || !entries) {
      status.textContent = "";
      return;
    }
    const ranked = entries.map((entry) => [score(entry, patterns), entry]).filter(([value]) => value);
    ranked.sort((a, b) => b[0] - a[0]);
    const more = ranked.length > SHOWN ? `; the first ${SHOWN} are shown` : "";
    status.textContent = ranked.length ? `${ranked.length} found${more}` : "Nothing found";
    list.append(...ranked.slice(0, SHOWN).map(([, entry]) => item(entry, patterns)));
  }

  function close() {
    field.value = "";
    look();
  }

  field.addEventListener("focus", load);
  field.addEventListener("input", () => { load(); look(); });
  form.addEventListener("submit", (event) => { event.preventDefault(); list.querySelector("a")?.focus(); });
  form.addEventListener("keydown", (event) => { if (event.key === "Escape") { close(); field.focus(); } });
  list.addEventListener("click", (event) => { if (event.target.closest("a")) close(); });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.closest("input, textarea, select")) return;
    event.preventDefault();
    field.focus();
  });
  form.hidden = false;
})();

// What is wider than the page scrolls by itself; the keyboard must reach it to scroll it.
(() => {
  const wide = document.querySelectorAll("pre, figure, .wide, .output_html");
  const reach = () => {
    for (const element of wide) {
      if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
      else element.removeAttribute("tabindex");
    }
  };
  addEventListener("resize", reach);
  reach();
})();

// On paper nothing can be unfolded, and on a narrow screen the table of contents begins folded.
(() => {
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("main details:not([open])")];
    for (const details of folded) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of folded) details.open = false; });
  const outline = document.querySelector("details.outline");
  if (outline) outline.open = matchMedia("(min-width: 76rem)").matches;
})();
