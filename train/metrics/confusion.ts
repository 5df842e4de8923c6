/** A confusion matrix: `confusion[true class][predicted class]`. */
export interface ConfusionMatrix {
  labels: readonly string[];
  confusion: readonly (readonly number[])[];
}

/** Longer labels are cut, so that the table fits a terminal. */
const maxLabel = 16;

function short(label: string): string {
  const chars = [...label];
  return chars.length > maxLabel ? `${chars.slice(0, maxLabel - 1).join("")}…` : label;
}

/** A text table with a row for each true class and a column for each predicted class. */
export function confusionText({ labels, confusion }: ConfusionMatrix): string {
  const names = labels.map(short);
  const rows = [
    ["true \\ predicted", ...names],
    ...confusion.map((row, i) => [names[i], ...row.map((count) => count.toLocaleString("en"))]),
  ];
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => [...row[column]].length)));
  const pad = (cell: string, column: number) => {
    const space = " ".repeat(widths[column] - [...cell].length);
    return column === 0 ? cell + space : space + cell;
  };
  return rows.map((row) => row.map(pad).join("  ").trimEnd()).join("\n");
}

// The file has styles for both themes, so that a picture in a README follows the reader's theme.
const style = `
    svg { background: #ffffff; font: 12px system-ui, sans-serif; }
    text { fill: #52525b; } .title { fill: #18181b; font-size: 15px; font-weight: 600; }
    .cell { fill: #2563eb; } .dark { fill: #ffffff; } .light { fill: #18181b; } .edge { fill: none; stroke: #e4e4e7; }
    @media (prefers-color-scheme: dark) {
      svg { background: #18181b; } text { fill: #a1a1aa; } .title { fill: #fafafa; } .light { fill: #fafafa; }
      .edge { stroke: #3f3f46; }
    }`;

function escaped(text: string): string {
  return text.replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`);
}

/** The same table as an SVG. Cells are shaded by their share of the row. */
export function confusionSvg({ labels, confusion }: ConfusionMatrix, title = "Confusion matrix"): string {
  const cell = 48;
  const left = 140;
  const top = 140;
  const size = labels.length * cell;
  const names = labels.map((label) => escaped(short(label)));
  const cells = confusion.flatMap((row, i) => {
    const total = row.reduce((sum, count) => sum + count, 0);
    return row.map((count, j) => {
      const share = total === 0 ? 0 : count / total;
      const [x, y] = [left + j * cell, top + i * cell];
      return (
        `<rect class="cell" x="${x}" y="${y}" width="${cell}" height="${cell}" fill-opacity="${share.toFixed(3)}"/>` +
        `<text class="${share > 0.5 ? "dark" : "light"}" x="${x + cell / 2}" y="${y + cell / 2 + 4}" text-anchor="middle">${count}</text>`
      );
    });
  });
  const axes = names.flatMap((name, i) => {
    const middle = i * cell + cell / 2;
    return [
      `<text x="${left - 8}" y="${top + middle + 4}" text-anchor="end">${name}</text>`,
      `<text transform="translate(${left + middle + 4} ${top - 8}) rotate(-60)">${name}</text>`,
    ];
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${left + size + 24} ${top + size + 40}" width="${left + size + 24}" height="${top + size + 40}">`,
    `<style>${style}</style>`,
    `<text class="title" x="16" y="26">${escaped(title)}</text>`,
    ...cells,
    `<rect class="edge" x="${left}" y="${top}" width="${size}" height="${size}"/>`,
    ...axes,
    `<text x="${left + size / 2}" y="${top + size + 24}" text-anchor="middle">predicted</text>`,
    `<text transform="translate(16 ${top + size / 2}) rotate(-90)" text-anchor="middle">true</text>`,
    "</svg>\n",
  ].join("\n");
}
