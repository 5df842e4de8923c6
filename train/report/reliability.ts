import type { CalibrationBin } from "../../core/statistics/calibration.ts";

const style = `
    svg { background: #ffffff; font: 12px system-ui, sans-serif; }
    text { fill: #52525b; } .title { fill: #18181b; font-size: 15px; font-weight: 600; }
    .bar { fill: #2563eb; } .gap { fill: #f59e0b; } .line { stroke: #71717a; } .edge { fill: none; stroke: #e4e4e7; }
    @media (prefers-color-scheme: dark) {
      svg { background: #18181b; } text { fill: #a1a1aa; } .title { fill: #fafafa; } .edge { stroke: #3f3f46; }
    }`;

/**
 * A reliability diagram (DeGroot and Fienberg 1983) as SVG: for each bin of confidence a bar as high as the share that is
 * right, as strong as the bin has many items, and a mark at the mean confidence. Marks above bars are overconfidence.
 */
export function reliabilitySvg(bins: readonly CalibrationBin[]): string {
  const [left, top, size] = [56, 48, 300];
  const most = Math.max(...bins.map(({ count }) => count));
  const width = size / bins.length;
  const at = (share: number) => top + size * (1 - share);
  const bars = bins.flatMap(({ count, right, confidence }, i) => {
    if (count === 0) return [];
    const x = left + i * width;
    const [hit, sure] = [right / count, confidence / count];
    const opacity = (0.25 + 0.75 * Math.sqrt(count / most)).toFixed(3);
    return [
      `<rect class="bar" x="${(x + 1).toFixed(1)}" y="${at(hit).toFixed(1)}" width="${(width - 2).toFixed(1)}" height="${(size * hit).toFixed(1)}" fill-opacity="${opacity}"/>`,
      `<rect class="gap" x="${(x + 1).toFixed(1)}" y="${(at(sure) - 1.5).toFixed(1)}" width="${(width - 2).toFixed(1)}" height="3"/>`,
    ];
  });
  const ticks = [0, 0.5, 1].flatMap((share) => [
    `<text x="${left - 8}" y="${at(share) + 4}" text-anchor="end">${share}</text>`,
    `<text x="${left + share * size}" y="${top + size + 18}" text-anchor="middle">${share}</text>`,
  ]);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 380 400" width="380" height="400">`,
    `<style>${style}</style>`,
    `<text class="title" x="16" y="26">Reliability</text>`,
    ...bars,
    `<line class="line" x1="${left}" y1="${top + size}" x2="${left + size}" y2="${top}" stroke-dasharray="4 4"/>`,
    `<rect class="edge" x="${left}" y="${top}" width="${size}" height="${size}"/>`,
    ...ticks,
    `<text x="${left + size / 2}" y="${top + size + 40}" text-anchor="middle">confidence (mark: its mean in the bin)</text>`,
    `<text transform="translate(16 ${top + size / 2}) rotate(-90)" text-anchor="middle">share that is right (bar)</text>`,
    "</svg>\n",
  ].join("\n");
}
