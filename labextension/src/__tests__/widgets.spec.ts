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
    {
      id: 'cuda:0',
      label: 'H200',
      memory_bytes: 141e9,
      used_bytes: 34e9,
      utilisation: 0.5,
      share: 1
    }
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

describe('the menu of the widget', () => {
  const NODE = {
    id: 'node-b',
    state: 'up',
    used: { 'cuda:0': 0.5 },
    samples: [],
    devices: [{ id: 'cuda:0', kind: 'cuda', label: 'H200', memory_bytes: 141e9 }]
  };
  const SESSION = {
    state: 'idle',
    cause: '',
    queue_place: 0,
    request: { kind: null, memory_bytes: 0, devices: 1, share: 0.5 },
    lease: { node_id: 'node-a', device_ids: ['cuda:0'], share: 0.5 }
  };
  const PLAN = { moves: 3, bytes_estimate: 1000, downtime_s_estimate: 0.5, lost: {} };
  const phases = ['pre_copy', null, null, 'restore', 'done'];

  /** What the server answers with; null where it is away. */
  function answer(url: string, { method = 'GET', body = '' }: RequestInit): unknown {
    if (url.endsWith('/service')) {
      return { state: 'ready' };
    }
    if (url.endsWith('/nodes')) {
      const [own, full] = [{ 'cuda:0': 1 }, { 'cuda:0': 0.75 }];
      return [{ ...NODE, id: 'node-a', used: own }, NODE, { ...NODE, id: 'node-c', used: full }];
    }
    if (url.includes('/migrations')) {
      if (String(body).includes('dry_run')) {
        return PLAN;
      }
      const phase = method === 'POST' ? 'reserve' : phases.shift();
      return phase ? { id: 'm', phase, target: 'node-b', downtime_s: 0.4, cause: '' } : null;
    }
    return { session: SESSION, device_seconds: 1 };
  }

  it('follows a move over the time in which the server is away', async () => {
    document.body.innerHTML =
      '<script id="jupyter-config-data" type="application/json">{"baseUrl": "/base/"}</script>';
    Object.assign(globalThis, {
      fetch: async (url: URL, asked: RequestInit) => {
        const content = answer(String(url), asked);
        if (content === null) {
          throw new TypeError('Failed to fetch');
        }
        return { ok: true, status: 200, json: async () => content };
      },
      IntersectionObserver: class {
        constructor(private readonly tell: (entries: object[]) => void) {}
        observe(): void {
          this.tell([{ isIntersecting: true }]);
        }
        disconnect(): void {}
      }
    });
    const el = document.createElement('div');
    document.body.append(el);
    load('allocation.js')({ model: { get: () => structuredClone(ALLOCATION) }, el });
    await jest.advanceTimersByTimeAsync(0);
    const menu = el.querySelector('details') as HTMLDetailsElement;
    expect(menu.hidden).toBe(false);
    const targets = [...menu.querySelectorAll('option')].map(each => each.textContent);
    expect(targets).toEqual(['node-b: room on 1 device']);
    expect(el.textContent).toContain('0.5 of cuda:0 H200');
    menu.open = true;
    menu.dispatchEvent(new Event('toggle'));
    await jest.advanceTimersByTimeAsync(0);
    expect(menu.textContent).toContain('3 variables move, about 1.0 KB');

    menu.querySelector('button')?.click();
    await jest.advanceTimersByTimeAsync(1100);
    expect(menu.textContent).toContain('Copying while you work');
    await jest.advanceTimersByTimeAsync(2000);

    expect(menu.textContent).toContain('It runs on node-b now. It stood still for 400 ms.');
    expect(phases).toEqual([]);
  });
});
