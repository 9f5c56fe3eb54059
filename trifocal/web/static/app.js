const $ = (id) => document.getElementById(id);
const MAGIC = [0xf3, 0x54, 0x46];
const COMPARISON_NAMES = { avif: "AVIF", webp: "WebP", jpeg: "JPEG" };
const LAYER_NAMES = { BASE: "Base, for detection", ENHANCEMENT: "Enhancement", LATENT: "Image", COMPONENTS: "List of components",
  TEXT: "Text", ALPHA: "Transparency", ICC: "Colour profile", EXIF: "EXIF", XMP: "XMP", DPI: "Resolution", PART: "Part" };
const HUES = ["#818cf8", "#f59e0b", "#10b981", "#ec4899", "#06b6d4", "#a3e635", "#f97316", "#a78bfa"];
const RETRIES = 5;

let config;
let run = new AbortController();
const state = { source: null, name: "", tri: null, info: null, sizes: null, urls: {}, left: "original", missing: new Set(), rest: true, notices: {} };

// Text

function size(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(bytes < 1e5 ? 1 : 0)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 0)} MB`;
}
function say(text) { $("status").textContent = text; }
function showError(text) { $("error-text").textContent = text; $("error").hidden = !text; }
function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

// Requests

async function post(path, body, options, signal) {
  const query = new URLSearchParams(Object.entries(options || {}).filter(([, value]) => value !== undefined && value !== null));
  if (body.size > config.limits.max_bytes) throw new Error(`The file has ${size(body.size)}, and this server takes at most ${size(config.limits.max_bytes)}; choose a smaller one.`);
  for (let attempt = 0; ; attempt++) {
    let response;
    try {
      response = await fetch(`${path}?${query}`, { method: "POST", body, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer; check that `trifocal serve` runs, and try again.");
    }
    if (response.ok) {
      state.notices[path] = JSON.parse(response.headers.get("Trifocal-Notices") || "[]");
      return response;
    }
    if (response.status === 503 && attempt < RETRIES) {
      say("The server is busy; waiting.");
      await new Promise((resolve) => setTimeout(resolve, 1000 * (Number(response.headers.get("Retry-After")) || 2)));
      signal?.throwIfAborted();
      continue;
    }
    const answer = await response.json().catch(() => ({}));
    throw new Error(answer.error || `The server answered with status ${response.status}; try again.`);
  }
}

// Images

function setImage(key, element, blob) {
  if (state.urls[key]) URL.revokeObjectURL(state.urls[key]);
  state.urls[key] = blob ? URL.createObjectURL(blob) : null;
  if (element) element.src = state.urls[key] || "";
}

function layOut() {
  if (!state.info) return;
  const { width, height } = state.info;
  const stage = $("stage");
  const actual = $("actual").getAttribute("aria-pressed") === "true";
  stage.classList.toggle("actual", actual);
  const ratio = window.devicePixelRatio || 1;
  const room = Math.min(stage.clientWidth / width, (0.74 * window.innerHeight) / height);
  const scale = actual ? 1 / ratio : Math.min(room, 3);
  $("frame").style.width = `${width * scale}px`;
  $("frame").style.height = `${height * scale}px`;
}

function setSplit() {
  const value = Number($("split").value);
  $("frame").style.setProperty("--split", `${value}%`);
  $("split").setAttribute("aria-valuetext", `${Math.round(value)} % ${leftName()}`);
}

// Loading

async function open(file) {
  showError("");
  const start = new Uint8Array(await file.slice(0, 3).arrayBuffer());
  const isTri = MAGIC.every((byte, at) => start[at] === byte);
  run.abort();
  const previous = { ...state };
  Object.assign(state, { name: (file.name || "image").replace(/\.[^.]+$/, ""), sizes: null, info: null, missing: new Set(), rest: true, notices: {}, left: isTri ? "none" : "original" });
  state.source = isTri ? null : file;
  state.tri = isTri ? file : null;
  $("components").value = $("text").value = "";
  $("send-text").checked = false;
  await work(async (signal) => {
    try {
      await (isTri ? showFile(signal) : encodeAndEstimate(signal));
    } catch (error) {
      if (error.name !== "AbortError") Object.assign(state, previous); // what is shown stays in use
      throw error;
    }
  });
}

async function encodeAndEstimate(signal) {
  const estimating = estimate(signal);
  estimating.catch(() => {}); // an error of `encode` is reported first
  await encode(signal);
  await estimating;
}

async function work(steps) {
  run.abort();
  const mine = (run = new AbortController());
  $("busy").hidden = false;
  document.body.setAttribute("aria-busy", "true");
  try {
    await steps(mine.signal);
    showError("");
  } catch (error) {
    if (error.name !== "AbortError") { showError(error.message); say(""); }
  } finally {
    if (run === mine) { $("busy").hidden = true; document.body.removeAttribute("aria-busy"); showNotices(); }
  }
}

async function estimate(signal) {
  const preset = $("preset").value;
  try {
    const { sizes } = await (await post("estimate", state.source, { preset }, signal)).json();
    state.sizes = sizes;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    state.sizes = null; // the size is then known only after encoding
  }
}

function encodeOptions() {
  const preset = chosenPreset();
  return {
    preset: preset.name,
    quality: $("quality").value,
    refinement: preset.base_layer && !$("refine").checked ? 0 : undefined,
    text: preset.text && $("text").value.trim() ? $("text").value.trim() : undefined,
    send_text: preset.text === "decoder" && $("text").value.trim() && $("send-text").checked ? true : undefined,
    components: preset.components && $("components").value.trim() ? $("components").value.trim() : undefined,
  };
}

async function encode(signal) {
  say("Encoding.");
  const response = await post("encode", state.source, encodeOptions(), signal);
  state.tri = await response.blob();
  await showFile(signal);
}

async function showFile(signal) {
  const info = await (await post("info", state.tri, {}, signal)).json();
  state.info = info;
  const labels = new Set(components().map((one) => one.label));
  state.missing = new Set([...state.missing].filter((label) => labels.has(label)));
  await decode(signal);
  showSettings();
  showLayers();
  showParts();
  setImage("tri", null, state.tri);
  $("save-tri").href = state.urls.tri;
  $("save-tri").download = `${state.name}.tri`;
  await Promise.all([detect(signal), showLeft(signal)]);
  say(`${state.source ? "Encoded to" : "The file has"} ${size(info.bytes)}. ${$("objects-count").textContent}`);
}

async function decode(signal) {
  const layers = state.info.layers.map((layer) => layer.name);
  const only = layers.includes("BASE") && !layers.includes("ENHANCEMENT");
  const takes = presetNamed(state.info["preset name"])?.preference;
  const typed = presetNamed(state.info["preset name"])?.text === "decoder" && $("text").value.trim();
  const response = await post("decode", state.tri, {
    base_only: only || undefined,
    preference: takes ? $("preference").value : undefined,
    text: typed || undefined,
    components: keptComponents(),
  }, signal);
  const blob = await response.blob();
  setImage("png", $("right-image"), blob);
  $("save-png").href = state.urls.png;
  $("save-png").download = `${state.name}.png`;
  $("right-image").alt = `${state.name}, decoded by Trifocal`;
  caption($("right-caption"), only ? "Base layer" : droppedBytes() ? "Trifocal, in part: about" : "Trifocal", state.info.bytes - droppedBytes());
  $("empty").hidden = true;
  $("viewer").hidden = $("panel").hidden = false;
  document.querySelector("main").classList.add("loaded");
  layOut();
  await $("right-image").decode().catch(() => {});
}

function caption(element, name, bytes) {
  element.replaceChildren(make("b", name), ` ${size(bytes)}, ${((8 * bytes) / (state.info.width * state.info.height)).toFixed(2)} bits per pixel`);
}

// The image on the left of the divider

function leftName() { return $("left").selectedOptions[0]?.textContent || ""; }

function leftChoices() {
  const base = state.info.layers.some((layer) => layer.name === "BASE") && state.info.layers.some((layer) => layer.name === "ENHANCEMENT");
  const found = state.source ? [["original", "Original"], ...config.comparisons.map((name) => [name, `${COMPARISON_NAMES[name]}, equal bytes`])] : [];
  return [["none", "Nothing"], ...found, ...(base ? [["base", "Base layer alone"]] : [])];
}

async function showLeft(signal) {
  const choices = leftChoices();
  if (!choices.some(([value]) => value === state.left)) state.left = choices.length > 1 && state.source ? "original" : "none";
  $("left").replaceChildren(...choices.map(([value, text]) => new Option(text, value, false, value === state.left)));
  const kind = state.left;
  let blob = null;
  if (kind === "original") blob = state.source;
  else if (kind === "base") blob = await (await post("decode", state.tri, { base_only: true }, signal)).blob();
  else if (kind !== "none") blob = await (await post("compare", state.source, { format: kind, max_bytes: state.info.bytes }, signal)).blob();
  setImage("left", null, blob);
  const image = $("left-image");
  image.hidden = $("divider").hidden = $("split").hidden = !blob;
  $("left-caption").replaceChildren();
  if (!blob) return;
  image.src = state.urls.left;
  image.alt = leftName();
  const base = state.info.layers.find((layer) => layer.name === "BASE");
  caption($("left-caption"), kind === "original" ? "Original" : kind === "base" ? "Base layer" : COMPARISON_NAMES[kind], kind === "base" ? base.bytes : blob.size);
  setSplit();
  await image.decode().catch(() => {
    image.hidden = $("divider").hidden = $("split").hidden = true;
    $("left-caption").textContent = "This browser cannot show the original; compare with another format.";
  });
}

// Objects

async function detect(signal) {
  const base = state.info.layers.find((layer) => layer.name === "BASE");
  const answer = await post("detect", state.tri, {}, signal);
  const { objects } = await answer.json();
  const { width, height } = state.info;
  const labels = [...new Set(objects.map((one) => one.label))];
  const hue = (label) => HUES[labels.indexOf(label) % HUES.length];
  const boxes = objects.map((one) => {
    const [x0, y0, x1, y1] = one.box;
    const box = make("div", undefined, "box");
    box.append(make("span", `${one.label} ${one.score.toFixed(2)}`));
    box.style.setProperty("--hue", hue(one.label));
    box.style.left = `${(100 * x0) / width}%`;
    box.style.top = `${(100 * y0) / height}%`;
    box.style.width = `${(100 * (x1 - x0)) / width}%`;
    box.style.height = `${(100 * (y1 - y0)) / height}%`;
    return box;
  });
  $("boxes").replaceChildren(...boxes);
  $("found").replaceChildren(...objects.map((one, at) => {
    const chip = make("li", `${one.label} ${one.score.toFixed(2)}`);
    chip.style.setProperty("--hue", hue(one.label));
    chip.addEventListener("pointerenter", () => boxes[at].classList.add("bright"));
    chip.addEventListener("pointerleave", () => boxes[at].classList.remove("bright"));
    return chip;
  }));
  $("found-source").textContent = `${objects.length ? "Detected" : "None detected"} in ${base ? `the base layer alone, ${size(base.bytes)}.` : "the decoded image."}`;
  $("objects-count").textContent = `(${objects.length})`;
  $("found-card").hidden = false;
}

// The panel

const presetNamed = (name) => config.presets.find((preset) => preset.name === name);
const chosenPreset = () => presetNamed($("preset").value);
const components = () => (state.info?.components || []).filter((one) => one.box);

function showSettings() {
  const fromImage = Boolean(state.source);
  const preset = fromImage ? chosenPreset() : presetNamed(state.info["preset name"]);
  for (const id of ["quality", "preset"]) $(id).disabled = !fromImage;
  if (!fromImage) {
    $("quality").value = state.info.quality;
    if (preset) $("preset").value = preset.name;
  }
  $("quality-value").textContent = fromImage ? $("quality").value : `${state.info.quality}`;
  $("bytes").textContent = size(state.info.bytes);
  $("rate").textContent = `${state.info["bits per pixel"].toFixed(3)} bits per pixel · ${state.info.width} × ${state.info.height}`;
  $("preset-summary").textContent = preset ? `${preset.summary[0].toUpperCase()}${preset.summary.slice(1)}.` : "";
  $("preference-card").hidden = !preset?.preference;
  $("text-field").hidden = !(preset?.text === "decoder" || (preset?.text && fromImage));
  $("send-field").hidden = !(preset?.text === "decoder" && fromImage);
  $("components-field").hidden = !(preset?.components && fromImage);
  $("refine-field").hidden = !(preset?.base_layer && fromImage);
  $("options-card").hidden = ["text-field", "components-field"].every((id) => $(id).hidden);
  $("text-note").textContent = preset?.text === "decoder" ? "The decoder reads it and improves the image." : "More bits go to what the words name.";
}

function showLayers() {
  const rows = state.info.layers.map((layer) => [LAYER_NAMES[layer.name] || layer.name, layer.bytes]);
  if (state.info.overhead) rows.push(["Header", state.info.overhead]);
  const share = (bytes) => `${((100 * bytes) / state.info.bytes).toFixed(1)} %`;
  $("bar").replaceChildren(...rows.map(([name, bytes], at) => {
    const part = make("span");
    part.style.setProperty("--hue", HUES[at % HUES.length]);
    part.style.flexGrow = bytes;
    part.title = `${name}: ${size(bytes)}`;
    return part;
  }));
  $("bar").setAttribute("aria-label", rows.map(([name, bytes]) => `${name} ${share(bytes)}`).join(", "));
  $("legend").replaceChildren(...rows.map(([name, bytes], at) => {
    const row = make("li");
    row.style.setProperty("--hue", HUES[at % HUES.length]);
    row.append(make("i"), make("span", name), make("span", size(bytes)), make("span", share(bytes)));
    return row;
  }));
}

function showParts() {
  const byLabel = new Map();
  for (const one of state.info.components || []) {
    if (one.label === "side information") continue;
    const known = byLabel.get(one.label) || { bytes: 0, absent: 0, count: 0, object: Boolean(one.box) };
    byLabel.set(one.label, { ...known, bytes: known.bytes + one.bytes, absent: known.absent + one["absent bytes"], count: known.count + 1 });
  }
  $("parts-card").hidden = byLabel.size === 0;
  $("parts").replaceChildren(...[...byLabel].map(([label, part]) => {
    const field = make("label", undefined, "check");
    const box = make("input");
    box.type = "checkbox";
    box.checked = !part.absent && (part.object ? !state.missing.has(label) : state.rest && !state.missing.size);
    box.disabled = part.absent > 0 || (!part.object && state.missing.size > 0);
    box.addEventListener("change", () => toggle(label, part.object, box.checked));
    field.append(box, `${label}${part.count > 1 ? ` × ${part.count}` : ""}`);
    const row = make("li");
    row.append(field, make("span", part.absent ? "not in this file" : size(part.bytes), "count"));
    return row;
  }));
}

function toggle(label, isObject, on) {
  if (!isObject) state.rest = on;
  else if (on) state.missing.delete(label);
  else state.missing.add(label);
  const at = [...$("parts").querySelectorAll("input")].indexOf(document.activeElement);
  showParts();
  $("parts").querySelectorAll("input")[at]?.focus();
  work(async (signal) => { await decode(signal); say(`Decoded ${on ? "with" : "without"} ${label}.`); });
}

function keptComponents() {
  if (!state.missing.size && state.rest) return undefined;
  return [...new Set(components().map((one) => one.label))].filter((label) => !state.missing.has(label)).join(",");
}

function droppedBytes() {
  const isDropped = (one) => (one.box ? state.missing.has(one.label) : one.label !== "side information" && (state.missing.size > 0 || !state.rest));
  return (state.info.components || []).filter(isDropped).reduce((sum, one) => sum + one.bytes, 0);
}

function showNotices() {
  const notices = [...new Set(Object.values(state.notices).flat())];
  $("notices-card").hidden = !notices.length;
  $("notices-count").textContent = `(${notices.length})`;
  $("notices").replaceChildren(...notices.map((notice) => make("li", notice)));
}

function showEstimate() {
  const quality = Number($("quality").value);
  $("quality-value").textContent = quality;
  if (!state.sizes) return;
  const after = Math.max(1, state.sizes.findIndex((one) => one.quality >= quality));
  const [low, high] = [state.sizes[after - 1], state.sizes[after]];
  const part = (quality - low.quality) / (high.quality - low.quality);
  const bytes = Math.exp(Math.log(low.bytes) * (1 - part) + Math.log(high.bytes) * part);
  $("bytes").textContent = `about ${size(Math.round(bytes))}`;
  $("rate").textContent = `${((8 * bytes) / (state.info.width * state.info.height)).toFixed(2)} bits per pixel`;
}

// Events

function later(milliseconds, call) {
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(call, milliseconds); };
}

function listen() {
  const choose = () => $("file").click();
  $("open").addEventListener("click", choose);
  $("choose").addEventListener("click", choose);
  $("file").addEventListener("change", () => { if ($("file").files[0]) open($("file").files[0]); $("file").value = ""; });
  $("sample").addEventListener("click", async () => {
    const photograph = await (await fetch("sample.png")).blob();
    open(new File([photograph], "astronaut.png", { type: "image/png" }));
  });
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (file) { event.preventDefault(); open(file); }
  });
  let depth = 0;
  const hint = (change) => { depth = Math.max(0, depth + change); $("drop-hint").hidden = depth === 0; };
  document.addEventListener("dragenter", (event) => { event.preventDefault(); hint(1); });
  document.addEventListener("dragleave", () => hint(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    hint(-depth);
    const file = event.dataTransfer?.files[0];
    if (file) open(file);
    else showError("That is not a file; drop an image file or a .tri file.");
  });

  const encodeSoon = later(300, () => work(encode));
  $("quality").addEventListener("input", () => { showEstimate(); encodeSoon(); });
  $("preset").addEventListener("change", () => work(async (signal) => {
    state.sizes = null;
    await encodeAndEstimate(signal);
  }));
  const decodeSoon = later(200, () => work(async (signal) => { await decode(signal); say("Decoded."); }));
  $("preference").addEventListener("input", () => {
    const value = Number($("preference").value);
    $("preference-value").textContent = value === 0 ? "people" : value === 1 ? "machines" : value.toFixed(1);
    decodeSoon();
  });
  $("options").addEventListener("submit", (event) => { event.preventDefault(); work(state.source ? encode : showFile); });
  $("all-objects").addEventListener("click", () => { $("components").value = "detection"; work(encode); });
  $("left").addEventListener("change", () => { state.left = $("left").value; work(showLeft); });
  $("split").addEventListener("input", setSplit);
  $("objects").addEventListener("change", () => { $("boxes").hidden = !$("objects").checked; });
  for (const id of ["fit", "actual"]) {
    $(id).addEventListener("click", () => {
      for (const other of ["fit", "actual"]) $(other).setAttribute("aria-pressed", String(other === id));
      layOut();
    });
  }
  $("error-close").addEventListener("click", () => showError(""));
  $("theme").addEventListener("click", () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
    document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  });
  window.addEventListener("resize", layOut);
}

async function start() {
  listen();
  try {
    config = await (await fetch("config")).json();
  } catch {
    showError("The server does not answer; check that `trifocal serve` runs, and load this page again.");
    return;
  }
  $("preset").replaceChildren(...config.presets.map((one) => new Option(one.name, one.name, one.name === config.preset, one.name === config.preset)));
  $("limits").textContent = `Up to ${size(config.limits.max_bytes)} and ${Math.round(config.limits.max_pixels / 1e6)} megapixels.`;
  $("version").textContent = `Trifocal ${config.version}`;
}

start();
