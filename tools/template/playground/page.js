// The page: controls, what follows from them, and the certificate.
const data = JSON.parse(document.getElementById("play-data").textContent);
const sets = unpack(data);
const LAMBDAS = [1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000];
const STEPS_SHOWN = 5;
const element = (id) => document.getElementById(`play-${id}`);
const controls = element("controls");
const boxes = [...controls.querySelectorAll("input[type=checkbox]")];
const two = (x) => (Math.abs(x) < 0.005 ? "0.00" : x.toFixed(2).replace("-", "\u2212"));
const counted = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const members = data.questions.map((_, q) => data.facts.flatMap((fact, f) => (fact.question === q ? [f] : [])));
for (const question of data.questions) question.base = question.says[question.table[0]]; // nothing arrives
let steps = [];
let state = null;

// One edit and all that the page shows of it.
function edit(clients, lambda, count) {
  const layers = sets[count - 1], length = (one) => Math.sqrt(dot(one, one));
  const inside = data.facts.flatMap((fact, f) => (clients.includes(fact.client) ? [f] : []));
  const changes = solve(layers, inside, lambda);
  const reached = members.map((asked) => reach(layers, changes, asked));
  const facts = data.facts.map((fact, f) => {
    const place = members[fact.question].indexOf(f), { u, rest, B, parts, factors } = reached[fact.question];
    const whole = length(B[place]);
    const others = inside.flatMap((other, n) => (data.facts[other].question === fact.question ? []
      : [{ fact: other, share: length(parts[n]) / whole }])).sort((one, two) => two.share - one.share);
    return { inside: inside.includes(f), delivered: u[place], beside: length(rest) / whole, most: others[0], factors };
  });
  const says = data.questions.map((question, q) =>
    question.says[question.table[reached[q].u.reduce((at, value) => at * data.steps.length + nearest(value), 0)]]);
  return { clients, lambda, count, layers, inside, changes, facts, says, hash: sha256(serialised(changes)) };
}

function nearest(value) {
  return data.steps.reduce((best, step, i) => (Math.abs(step - value) < Math.abs(data.steps[best] - value) ? i : best), 0);
}

const answered = ({ says }, f) => says[data.facts[f].question] === data.facts[f].answer;
const named = (clients) =>
  clients.length === data.clients.length ? "all clients"
    : clients.map((client) => data.clients[client].name).join(", ") || "nobody";

// What has changed since the last edit, in one or two sentences.
function news(now, before) {
  const gone = before.clients.filter((client) => !now.clients.includes(client));
  if (gone.length !== 1 || before.count !== now.count || before.lambda !== now.lambda) return "";
  const own = solve(now.layers, before.inside.filter((f) => data.facts[f].client === gone[0]), now.lambda);
  const [old, alone, goal] = [before.changes, own, now.changes].map((changes) => changes.map(dense));
  old.forEach((rows, l) => rows.forEach((row, d) => add(alone[l][d], row, -1)));
  for (const rows of alone) for (const row of rows) row.forEach((x, i) => { row[i] = -x; }); // old - own
  const share = Math.round(100 * missed(alone, goal, old));
  return ` ${data.clients[gone[0]].name} has withdrawn: the edit is solved again without its packets. ` +
    `Subtracting its own update instead would miss ${share}% of its effect.`;
}

function summary(now, before) {
  const right = now.inside.filter((f) => answered(now, f)).length;
  const disputed = members.filter((all) => all.filter((f) => now.facts[f].inside).length > 1).length;
  const moved = data.questions.filter((question, q) =>
    !members[q].some((f) => now.facts[f].inside) && now.says[q] !== question.base).length;
  return `${right} of ${counted(now.inside.length, "fact")} in the edit ${right === 1 ? "is" : "are"} answered` +
    (disputed ? `; ${counted(disputed, "question")} disputed` : "") +
    (moved ? `; ${counted(moved, "question")} outside the edit changed` : "") + "." + (before ? news(now, before) : "");
}

function certificate(now) {
  const known = steps.findIndex(({ hash }) => hash === now.hash);
  steps.push(now);
  element("hash").textContent = now.hash;
  element("packets").textContent = `${now.inside.length}, of ${named(now.clients)}`;
  element("verdict").textContent = known < 0 ? "No step before had this hash."
    : `This is the hash of step ${known + 1}.`;
  element("steps").replaceChildren(...steps.map(({ clients, lambda, count, hash }, i) => {
    const item = document.createElement("li"), code = document.createElement("code");
    item.value = i + 1;
    item.classList.toggle("same", hash === now.hash);
    code.textContent = hash.slice(0, 12);
    item.append(code, ` ${named(clients)}; \u03bb ${lambda.toLocaleString("en")}, ${counted(count, "layer")}`);
    return item;
  }).slice(-STEPS_SHOWN));
}

function part(tag, name, ...content) {
  const made = document.createElement(tag);
  made.className = name;
  made.append(...content);
  return made;
}

function factItem(now, f) {
  const fact = data.facts[f], found = now.facts[f], question = data.questions[fact.question];
  const right = answered(now, f), says = now.says[fact.question];
  const rivals = members[fact.question].filter((other) => other !== f && now.facts[other].inside);
  const kind = !found.inside ? (says === question.base ? "out" : "moved") : right ? "right" : "wrong";
  const words = { out: "not in the edit", moved: "not in the edit, and changed", right: "answered", wrong: "not answered" };
  const bar = part("span", "play-bar");
  bar.ariaHidden = "true";
  bar.append(part("i", ""));
  bar.firstChild.style.width = `${100 * Math.min(1, Math.max(0, found.delivered))}%`;
  const numbers = found.inside || Math.abs(found.delivered) > 0.005 || found.beside > 0.005
    ? `delivered ${two(found.delivered)}, beside it ${two(found.beside)}` : "nothing arrives here";
  const from = found.most?.share >= 0.005
    ? `; most from others: \u201c${data.facts[found.most.fact].subject}\u201d, ${two(found.most.share)}` : "";
  const item = part("li", `play-fact ${kind}`,
    part("p", "play-question", `${question.text} `, part("b", "", fact.answer)),
    part("p", "play-says", part("span", "play-mark", words[kind]), `: the model says \u201c${says}\u201d`,
      ...(rivals.length && found.inside
        ? [`; ${data.clients[data.facts[rivals[0]].client].name} wants \u201c${data.facts[rivals[0]].answer}\u201d`] : [])),
    bar, part("p", "play-numbers", numbers + from));
  return item;
}

function list(now) {
  element("facts").replaceChildren(...data.clients.map((client, c) => {
    const own = data.facts.flatMap((fact, f) => (fact.client === c ? [f] : []));
    const inside = now.clients.includes(c), right = own.filter((f) => now.facts[f].inside && answered(now, f)).length;
    const group = part("section", `play-group client-${c}`);
    const title = part("h3", "", client.name, " ",
      part("small", "", inside ? `${right} of ${own.length} answered` : "not in the edit"));
    title.id = `play-client-${c}`;
    group.setAttribute("aria-labelledby", title.id);
    const items = part("ul", "");
    items.append(...own.map((f) => factItem(now, f)));
    group.append(title, items);
    return group;
  }));
}

// Rows: the facts that are written; columns: the keys of all facts, in the order of the list.
function map(now) {
  const canvas = element("map"), count = data.facts.length, cell = 18, gap = 8;
  const place = (f) => f * cell + data.facts[f].client * gap;
  canvas.width = canvas.height = place(count - 1) + cell;
  const paint = canvas.getContext("2d"), colour = (name) => getComputedStyle(canvas).getPropertyValue(name);
  const ink = { "-1": colour("--to"), 1: colour("--from") }, empty = colour("--tint");
  for (let j = 0; j < count; j++) {
    for (let i = 0; i < count; i++) {
      const c = now.facts[j].factors[now.inside.indexOf(i)] ?? 0;
      paint.globalAlpha = 1;
      paint.fillStyle = empty;
      paint.fillRect(place(j), place(i), cell - 1, cell - 1);
      paint.globalAlpha = Math.min(1, Math.sqrt(Math.abs(c)));
      paint.fillStyle = ink[c < 0 ? -1 : 1];
      paint.fillRect(place(j), place(i), cell - 1, cell - 1);
    }
  }
  const pairs = now.inside.flatMap((i, n) => data.facts.flatMap((fact, j) =>
    (fact.question === data.facts[i].question ? [] : [[now.facts[j].factors[n], i, j]]))).sort((a, b) => Math.abs(b[0]) - Math.abs(a[0])).slice(0, 4);
  const name = (f) => `\u201c${data.facts[f].subject}\u201d`;
  const words = pairs.map(([c, i, j]) => `${name(i)} at the key of ${name(j)}: ${two(c)}`);
  canvas.setAttribute("aria-label", `A square of ${count} by ${count} cells. ` +
    (words.length ? `Strongest between questions: ${words.join("; ")}.` : "All cells are empty."));
  element("pairs").replaceChildren(...words.map((text) => part("li", "", text)));
}

function update() {
  const clients = boxes.flatMap((box, c) => (box.checked ? [c] : []));
  const lambda = LAMBDAS[element("lambda").value], count = Number(element("layers").value);
  const numbers = data.layers.slice(-count).join(", ");
  element("lambda").ariaValueText = element("lambda-now").textContent = lambda.toLocaleString("en");
  element("layers-now").textContent = `${count}: ${numbers}`;
  element("layers").ariaValueText = `${counted(count, "layer")}: ${numbers}`;
  const before = state;
  state = edit(clients, lambda, count);
  element("summary").textContent = summary(state, before);
  certificate(state);
  list(state);
  map(state);
}

controls.addEventListener("input", update);
controls.addEventListener("submit", (event) => event.preventDefault());
controls.addEventListener("reset", () => setTimeout(() => { steps = []; state = null; update(); }));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => map(state));
window.flekePlayground = { sha256, state: () => ({ ...state, dense: state.changes.map(dense) }) }; // for tests
const outline = document.querySelector("details.outline");
if (outline) outline.open = matchMedia("(min-width: 76rem)").matches;
element("app").hidden = false;
update();
