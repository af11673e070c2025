// A curve that is asked for in parts: the server sends smallest, mean and largest value of each bucket of the window.
import {ask, of} from './api.js';

const POINTS = 900;
// uPlot paints on a canvas, which knows no light-dark(): the browser resolves it on an element.
function resolved(name) {
  const probe = document.createElement('i');
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

export async function part(run, figure, first, last) {
  const query = new URLSearchParams({figure, points: POINTS});
  if (first != null) query.set('first', first);
  if (last != null) query.set('last', last);
  const all = new Float32Array(await (await ask(of(run, `/curve?${query}`))).arrayBuffer()), n = all.length / 4;
  return {step: all.subarray(0, n), low: all.subarray(n, 2 * n), mean: all.subarray(2 * n, 3 * n), high: all.subarray(3 * n)};
}

// Several curves over one axis: uPlot.join puts their steps together.
export class Curve {
  constructor(place, onZoom) {
    this.place = place;
    this.onZoom = onZoom;
    this.plot = null;
    this.watch = new ResizeObserver(() => this.plot?.setSize({width: place.clientWidth, height: place.clientHeight}));
    this.watch.observe(place);
    this.scheme = matchMedia('(prefers-color-scheme: dark)');
    this.repaint = () => { const last = this.last; this.plot?.destroy(); this.plot = null; if (last) this.show(...last); };
    this.scheme.addEventListener('change', this.repaint);
  }
  // lines: [{x, low, mean, high, colour, label}]
  show(lines, axis, log) {
    this.last = [lines, axis, log];
    const drawn = lines.filter(line => line.x.length);
    const data = drawn.length ? uPlot.join(drawn.map(one => [one.x, one.low, one.high, one.mean])) : [[]];
    const key = JSON.stringify([drawn.map(one => [one.label, one.colour]), axis, log]);
    if (this.plot && this.key === key) { this.plot.setData(data); return; }
    this.plot?.destroy();
    this.key = key;
    this.plot = new uPlot(this.options(drawn, axis, log), data, this.place);
  }
  options(drawn, axis, log) {
    const ink = resolved('--quiet'), grid = resolved('--line');
    const line = label => ({label, stroke: ink, grid: {stroke: grid, width: 1}, ticks: {stroke: grid, width: 1}, font: '12px system-ui', labelFont: '12px system-ui', labelSize: 20});
    const series = [{}], bands = [];
    for (const one of drawn) {
      const tone = resolved(one.colour), at = series.length;
      const faint = {stroke: 'transparent', points: {show: false}, spanGaps: true};
      series.push(faint, faint, {label: one.label, stroke: tone, width: 1.5, spanGaps: true, points: {show: one.x.length < 40}});
      bands.push({series: [at + 1, at], fill: tone.replace('rgb(', 'rgba(').replace(')', ', .18)')});
    }
    return {
      width: this.place.clientWidth, height: this.place.clientHeight, legend: {show: false}, series, bands,
      cursor: {drag: {x: true, y: false}}, scales: {x: {time: false}, y: {distr: log ? 3 : 1}},
      axes: [line(axis), {...line(''), size: 64}],
      hooks: {setSelect: [plot => {
        const {left, width} = plot.select;
        if (width > 4) this.onZoom(plot.posToVal(left, 'x'), plot.posToVal(left + width, 'x'));
        plot.setSelect({left: 0, width: 0, top: 0, height: 0}, false);
      }]},
    };
  }
  close() {
    this.watch.disconnect();
    this.scheme.removeEventListener('change', this.repaint);
    this.plot?.destroy();
  }
}
