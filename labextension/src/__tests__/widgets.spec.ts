/** The widgets in cells, which are scripts of their own: that they use the translator of the page that they are in. */

import * as fs from 'fs';
import * as path from 'path';

const STATIC = path.join(__dirname, '../../../jupyter_gpuaas/widgets/static');

type Render = (shown: { model: { get(name: string): unknown }; el: HTMLElement }) => unknown;

function load(name: string): Render {
  const script = ['shared.js', name].map(each => fs.readFileSync(path.join(STATIC, each), 'utf8'));
  const body = script.join('').replace('export default { render };', 'return render;');
  return new Function(body)() as Render;
}

const ALLOCATION = {
  id: 's',
  name: 'train.ipynb',
  state: 'idle',
  cause: '',
  queue_place: 0,
  node: 'node-a',
  since_s: 1000,
  device_s: 3600,
  parks_s: 0,
  ends_s: 0,
  devices: [
    { id: 'cuda:0', label: 'H200', memory_bytes: 141e9, used_bytes: 34e9, utilisation: 0.5 }
  ]
};
const CHECKPOINT = {
  id: 'c',
  session: 's',
  short: 'abcd1234',
  cell: 3,
  name: 'mark',
  created_s: 1000,
  bytes: 2000,
  new_bytes: 500,
  stall_s: 0.02,
  lost: { link: 'a socket' }
};
const TIMELINE = { session: 'train.ipynb', checkpoints: [CHECKPOINT], rows: [] };

/** What a widget has put on the page. */
function shown(name: string, facts: unknown): string {
  const el = document.createElement('div');
  load(name)({ model: { get: () => structuredClone(facts) }, el });
  return el.textContent ?? '';
}

beforeAll(() => {
  Object.assign(globalThis, {
    structuredClone: (value: unknown) => JSON.parse(JSON.stringify(value)),
    IntersectionObserver: class {
      observe(): void {}
      disconnect(): void {}
    }
  });
  jest.useFakeTimers();
});

afterAll(() => jest.useRealTimers());

describe('a widget', () => {
  it('is English where the page has no translator', () => {
    expect(shown('allocation.js', ALLOCATION)).toContain('idle on node-a');
    expect(shown('allocation.js', ALLOCATION)).toContain('34 GB of 141 GB, 50 % busy');
    expect(shown('checkpoints.js', TIMELINE)).toContain('abcd1234 “mark” after cell 3');
    expect(shown('checkpoints.js', TIMELINE)).toContain('held the next cell up for 20 ms');
  });

  it('is in the language of the page that it is in', () => {
    const answer = (event: Event): void => {
      // A language in which each text is the number of its letters.
      const __ = (text: string): string => `[${text.length}]`;
      (event as CustomEvent).detail.trans = { __, _n: __ };
    };
    document.addEventListener('jupyter-gpuaas:translator', answer);
    const all = [shown('allocation.js', ALLOCATION), shown('checkpoints.js', TIMELINE)];
    document.removeEventListener('jupyter-gpuaas:translator', answer);

    for (const text of all) {
      expect(text.replace('train.ipynb', '')).toMatch(/^(\[\d+\])+$/);
    }
  });
});
