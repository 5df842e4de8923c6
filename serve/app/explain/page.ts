import { existsSync, readFileSync } from "node:fs";
import { KilnError } from "../../../core/errors.ts";
import { atomicWriteText, fullPath } from "../../../core/platform/files.ts";
import { type AttentionMap, type Explanation, gapLine } from "./explain.ts";

/** Weights of tokens up to each token, a byte each. */
function packed(map: AttentionMap, length: number): string {
  const bytes = Buffer.alloc((length * (length + 1)) / 2);
  let place = 0;
  for (let t = 0; t < length; t++)
    for (let s = 0; s <= t; s++) bytes[place++] = Math.round(255 * map[t * length + s]);
  return bytes.toString("base64");
}

const titleTag = "<title>kiln explain</title>";

/** The path of a page to write: an older explanation may be replaced, and nothing else. @throws KilnError for another file */
export function pageFile(given: string): string {
  const path = fullPath(given);
  if (!/\.html?$/i.test(path))
    throw new KilnError(`${given}: an explanation is a page; give a name that ends in .html`);
  if (existsSync(path) && !readFileSync(path, "utf8").includes(titleTag))
    throw new KilnError(`${given} exists and is no explanation; give another name`);
  return path;
}

/** Writes an explanation as one HTML file that loads nothing; whole or not at all. */
export function writeExplanation(path: string, explanation: Explanation, title: string): void {
  atomicWriteText(path, explanationHtml(explanation, title));
}

/** The page of an explanation. Its script draws what its data say, and reaches for nothing outside: its policy forbids it. */
export function explanationHtml(explanation: Explanation, title: string): string {
  const { tokens, from, attribution, attention, rollout, choices } = explanation;
  const { gradientTimesInput, integratedGradients } = attribution;
  const data = {
    ...{ title, tokens, from, choices, gap: gapLine(attribution) },
    attributions: { "integrated gradients": integratedGradients, "gradient x input": gradientTimesInput },
    maps: attention.map((heads) => heads.map((map) => packed(map, tokens.length))),
    rollout: packed(rollout, tokens.length),
  };
  // Texts of the model cannot end the script's element.
  const json = JSON.stringify(data).replaceAll("<", "\\u003c");
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
${titleTag}
<style>${style}</style>
<main>
<h1></h1>
<h2>What the prompt adds to the log-probability of what follows</h2>
<p><label>Method <select id="method"></select></label></p>
<p id="text"></p>
<p id="gap"></p>
<h2>What else was likely</h2>
<div class="wide" role="region" aria-label="What else was likely" tabindex="0"><table id="choices"><thead><tr><th>token<th>probability<th>entropy (nats)<th>likeliest</tr></thead><tbody></tbody></table></div>
<h2>Attention</h2>
<p><label>Layer <select id="layer"></select></label> <label>Head <select id="head"></select></label> <span id="weight" role="status"></span></p>
<canvas id="map" role="img" aria-label="Attention weights: a row for each token, a column for each token that it sees"></canvas>
</main>
<script type="application/json" id="data">${json}</script>
<script>${script}</script>
</html>
`;
}

const style = `
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
#text { white-space: pre-wrap; font-family: ui-monospace, monospace; line-height: 1.9; }
#text span { border-radius: 3px; padding: 2px 0; } #text .follows { border-bottom: 2px solid; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th, td { text-align: left; padding: 2px 12px 2px 0; white-space: pre; font-family: ui-monospace, monospace; }
canvas { border: 1px solid #8888; image-rendering: pixelated; max-width: 100%; }
`;

/** No template literals within: this is one. */
const script = `
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const make = (parent, name, text) => Object.assign(parent.appendChild(document.createElement(name)), { textContent: text });
const percent = (share) => (100 * share).toFixed(1) + "%";
const quote = (text) => JSON.stringify(text);
document.querySelector("h1").textContent = data.title;
at("gap").textContent = data.gap;

for (const name of Object.keys(data.attributions)) make(at("method"), "option", name);
const showText = () => {
  const values = data.attributions[at("method").value];
  const most = Math.max(...values.map(Math.abs)) || 1;
  at("text").replaceChildren();
  data.tokens.forEach((token, i) => {
    const span = make(at("text"), "span", token);
    if (i >= data.from) return span.classList.add("follows");
    const [r, g, b] = values[i] < 0 ? [220, 60, 60] : [40, 140, 80];
    span.style.background = "rgba(" + [r, g, b, Math.abs(values[i]) / most * 0.8] + ")";
    span.title = quote(token) + ": " + values[i].toFixed(4);
  });
};
at("method").onchange = showText;
showText();

for (const { text, probability, entropy, alternatives } of data.choices) {
  const row = make(document.querySelector("#choices tbody"), "tr", "");
  const others = alternatives.map((one) => quote(one.text) + " " + percent(one.probability)).join("  ");
  for (const cell of [quote(text), percent(probability), entropy.toFixed(2), others]) make(row, "td", cell);
}

const count = data.tokens.length;
const size = Math.max(2, Math.floor(640 / count));
const canvas = Object.assign(at("map"), { width: count * size, height: count * size });
make(at("layer"), "option", "rollout of all");
data.maps.forEach((_, i) => make(at("layer"), "option", String(i)));
data.maps[0].forEach((_, i) => make(at("head"), "option", String(i)));
let weights = [];
const showMap = () => {
  const layer = at("layer").selectedIndex - 1;
  at("head").disabled = layer < 0;
  const map = layer < 0 ? data.rollout : data.maps[layer][at("head").selectedIndex];
  weights = Uint8Array.from(atob(map), (each) => each.charCodeAt(0));
  const draw = canvas.getContext("2d");
  draw.clearRect(0, 0, canvas.width, canvas.height);
  for (let t = 0, place = 0; t < count; t++)
    for (let s = 0; s <= t; s++, place++) {
      draw.fillStyle = "rgba(60, 100, 220, " + Math.sqrt(weights[place] / 255) + ")";
      draw.fillRect(s * size, t * size, size, size);
    }
};
at("layer").onchange = at("head").onchange = showMap;
showMap();
canvas.onpointermove = (event) => {
  const scale = canvas.width / canvas.getBoundingClientRect().width / size;
  const [s, t] = [event.offsetX, event.offsetY].map((place) => Math.floor(place * scale));
  const isSeen = s <= t && t < count;
  at("weight").textContent = isSeen ? quote(data.tokens[t]) + " sees " + quote(data.tokens[s]) + ": " + percent(weights[t * (t + 1) / 2 + s] / 255) : "";
};
`;
