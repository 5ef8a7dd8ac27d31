import * as React from 'react';
import { act } from 'react';
import { createRoot, type Root } from 'react-dom/client';

import {
  checkpoint,
  event,
  migration,
  node,
  service,
  session,
  status,
  words
} from '../../__tests__/facts';
import type { IKernel, ISession } from '../../api/types';
import { chipFacts, ChipView } from '../../notebook/chip_view';
import { type IState, NOTHING, reduce } from '../../model/state';
import { Checkpoints } from '../checkpoints';
import { MoveProgress } from '../move_progress';
import { Nodes } from '../nodes';
import { Queue } from '../queue';
import { ServiceLine } from '../service_line';
import { Sessions } from '../sessions';
import { told } from '../story';
import { ThisNotebook } from '../this_notebook';

(globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;

let host: HTMLElement;
let root: Root;
const run = jest.fn();

beforeEach(() => {
  host = document.createElement('div');
  document.body.appendChild(host);
  root = createRoot(host);
  run.mockReset();
});

afterEach(() => {
  act(() => root.unmount());
  host.remove();
});

function show(view: JSX.Element): void {
  act(() => root.render(view));
}

function button(label: string): HTMLButtonElement {
  const found = [...host.querySelectorAll('button')].find(
    each => (each.getAttribute('aria-label') ?? each.textContent) === label
  );
  if (found === undefined) {
    throw new Error(`no button ${label} in ${host.innerHTML}`);
  }
  return found;
}

function stateOf(...sessions: ReturnType<typeof session>[]): IState {
  const state = reduce(NOTHING, {
    of: 'nodes',
    nodes: [node({ used: { 'cuda:0': 1 } }), node({ id: 'node-b' })]
  });
  return reduce(state, { of: 'sessions', sessions, since: 0 });
}

describe('ThisNotebook', () => {
  it('says where it runs and how full its device is', () => {
    show(
      <ThisNotebook state={stateOf(session())} words={words} run={run} current="s1" otherwise="" />
    );

    expect(host.textContent).toContain('node-a');
    const meter = host.querySelector('[role="meter"]');
    expect(meter?.getAttribute('aria-label')).toBe('Memory of H200 0');
    expect(meter?.getAttribute('aria-valuetext')).toBe('34/141 GB');
    expect(meter?.getAttribute('aria-valuenow')).toBe('24');
  });

  it('says of which device it has a part', () => {
    const lease = { ...session().lease!, share: 0.5 };
    show(
      <ThisNotebook
        state={stateOf(session({ lease }))}
        words={words}
        run={run}
        current="s1"
        otherwise=""
      />
    );

    expect(host.querySelector('.jp-gpuaas-device-name')?.textContent).toBe('0.5 of H200 0');
  });

  it('names what cannot be restored, with the reason', () => {
    const last = { ...status().last!, lost: { sock: 'a socket' } };
    const view = { session: session(), checkpoints: status({ last }), migration: null };

    show(
      <ThisNotebook
        state={reduce(stateOf(session()), { of: 'view', view })}
        words={words}
        run={run}
        current="s1"
        otherwise=""
      />
    );

    expect(host.textContent).toContain('1 name cannot be restored');
    expect(host.textContent).toContain('sock a socket');
  });

  it('says in one sentence what to do where there is no session', () => {
    show(<ThisNotebook state={NOTHING} words={words} run={run} current="" otherwise="Open one." />);

    expect(host.textContent).toBe('Open one.');
  });
});

describe('MoveProgress', () => {
  it('can be cancelled until the cutover, and not after it', () => {
    show(
      <MoveProgress migration={migration({ phase: 'restore' })} words={words} run={run} name="n" />
    );
    act(() => button('Cancel the move').click());
    expect(run).toHaveBeenCalledWith('gpuaas:cancel-migration', { session: 's1', migration: 'm1' });

    show(
      <MoveProgress migration={migration({ phase: 'cutover' })} words={words} run={run} name="n" />
    );
    expect(button('Cancel the move').disabled).toBe(true);
  });

  it('marks the step that it is at, for eyes and ears', () => {
    show(
      <MoveProgress migration={migration({ phase: 'quiesce' })} words={words} run={run} name="n" />
    );

    const current = host.querySelector('[aria-current="step"]');
    expect(current?.textContent).toBe('Letting the cell that runs come to its end');
    expect(host.querySelector('[role="progressbar"]')?.getAttribute('aria-valuenow')).toBe('36');
  });
});

describe('Sessions', () => {
  it('lists those that nobody is attached to, and not those that have ended', () => {
    const left = session({ id: 's2', name: 'left.ipynb', clients: 0, unattended_since_s: 1 });
    const ended = session({ id: 's3', name: 'ended.ipynb', state: 'closed' });

    show(<Sessions state={stateOf(session(), left, ended)} words={words} run={run} current="s1" />);

    expect(host.querySelectorAll('[role="listitem"]')).toHaveLength(2);
    expect(host.textContent).toContain('nobody attached for');
    act(() => button('Release: left.ipynb').click());
    expect(run).toHaveBeenCalledWith('gpuaas:release', { session: 's2' });
  });

  it('puts only a part of a long list on the page, and says how long it is', () => {
    const many = Array.from({ length: 2000 }, (_, index) =>
      session({ id: `s${index}`, name: `${index}.ipynb` })
    );

    show(<Sessions state={stateOf(...many)} words={words} run={run} current="" />);

    const rows = host.querySelectorAll('[role="listitem"]');
    expect(rows.length).toBeLessThan(100);
    expect(rows[0]?.getAttribute('aria-setsize')).toBe('2000');
  });

  it('paints one row again when one session has changed', () => {
    const many = Array.from({ length: 30 }, (_, index) =>
      session({ id: `s${index}`, name: `${index}.ipynb` })
    );
    const before = stateOf(...many);
    show(<Sessions state={before} words={words} run={run} current="" />);
    const looked = jest.spyOn(words, 'state');

    const after = reduce(before, {
      of: 'event',
      event: event({ seq: 2, session_id: 's7', target: 'busy' })
    });
    show(<Sessions state={after} words={words} run={run} current="" />);

    expect(looked.mock.calls.map(([found]) => found.id)).toEqual(['s7']);
    looked.mockRestore();
  });
});

describe('Checkpoints', () => {
  const made = [
    checkpoint({ id: 'x'.repeat(32), session: 's1', cell: 1, label: 'before' }),
    checkpoint({ id: 'y'.repeat(32), session: 's1', cell: 2 })
  ];

  it('says which checkpoint is meant, by its name or its cell', async () => {
    await act(async () =>
      root.render(
        <Checkpoints
          state={stateOf(session())}
          words={words}
          run={run}
          current="s1"
          list={() => Promise.resolve(made)}
          diff={() => Promise.reject(new Error('not asked for'))}
        />
      )
    );

    act(() => button('Name…: before').click());
    act(() => button('Restore…: after cell 2').click());
    const about = { session: 's1' };
    expect(run.mock.calls).toEqual([
      ['gpuaas:name', { ...about, checkpoint: 'x'.repeat(32), name: 'before', cell: '1' }],
      ['gpuaas:restore', { ...about, checkpoint: 'y'.repeat(32), name: '', cell: '2' }]
    ]);
    expect(words.checkpoint({ id: 'x', name: 'before', cell: '1' })).toBe('checkpoint “before”');
    expect(words.checkpoint({ id: 'x', name: '', cell: '2' })).toBe('the checkpoint after cell 2');
  });
});

describe('Nodes', () => {
  it('says of each device whether it is free, in words', () => {
    show(<Nodes state={stateOf()} words={words} run={run} />);

    expect(host.textContent).toContain('H200 0 (in use)');
    expect(host.textContent).toContain('H200 0 (free)');
  });

  it('says how much of a device is in use of which the rest is free', () => {
    const state = reduce(NOTHING, { of: 'nodes', nodes: [node({ used: { 'cuda:0': 1 / 3 } })] });
    show(<Nodes state={state} words={words} run={run} />);

    expect(host.textContent).toContain('H200 0 (0.33 in use)');
  });

  it('measures memory and use of each device', () => {
    show(<Nodes state={stateOf()} words={words} run={run} />);

    const meters = [...host.querySelectorAll('[role="meter"]')];
    expect(meters.map(each => each.getAttribute('aria-valuetext')).slice(0, 2)).toEqual([
      '34/141 GB',
      '50 % busy'
    ]);
    expect(meters[1]?.getAttribute('aria-label')).toBe('Use of H200 0 on node-a');
  });

  it('lets an admin empty a node, and nobody else', () => {
    const managed = reduce(stateOf(), { of: 'service', service: service({ role: 'admin' }) });
    show(<Nodes state={managed} words={words} run={run} />);
    act(() => button('Drain…: node-a').click());
    act(() => button('Cordon: node-b').click());
    expect(run.mock.calls).toEqual([
      ['gpuaas:drain', { node: 'node-a' }],
      ['gpuaas:cordon', { node: 'node-b' }]
    ]);

    const used = reduce(stateOf(), { of: 'service', service: service({ role: 'user' }) });
    show(<Nodes state={used} words={words} run={run} />);
    expect(host.querySelectorAll('button').length).toBe(0);
  });

  it('says how far the emptying of a node is, and what cannot leave', () => {
    const drain = {
      deadline_s: Date.now() / 1000 + 60,
      left: ['s1'],
      refused: { s1: 'no other node has room.' },
      done: false,
      cause: ''
    };
    const nodes = [node({ state: 'cordoned', drain }), node({ id: 'node-b' })];
    const state = reduce(reduce(NOTHING, { of: 'service', service: service() }), {
      of: 'nodes',
      nodes
    });
    show(<Nodes state={state} words={words} run={run} />);

    expect(host.querySelector('[role="status"]')?.textContent).toMatch(
      /^It is being drained until .*: 1 session is left\.$/
    );
    expect(host.textContent).toContain('no other node has room.');
    act(() => button('Stop the drain: node-a').click());
    expect(run).toHaveBeenLastCalledWith('gpuaas:stop-drain', { node: 'node-a' });
  });
});

describe('what is small when it is small', () => {
  const alone = reduce(reduce(NOTHING, { of: 'nodes', nodes: [node()] }), {
    of: 'sessions',
    sessions: [session()],
    since: 0
  });

  it('offers no move where there is nowhere to go', () => {
    show(<Sessions state={alone} words={words} run={run} current="" />);
    expect(host.textContent).not.toContain('Move');
    show(<ThisNotebook state={alone} words={words} run={run} current="s1" otherwise="" />);
    expect(host.textContent).not.toContain('Move');
  });
});

describe('Queue', () => {
  const waiting = (facts: Partial<ISession>): IState => {
    const since_s = Date.now() / 1000;
    return stateOf(session({ state: 'queued', lease: null, queue_place: 1, since_s, ...facts }));
  };

  it('says how long it is likely to take, and what the session wants', () => {
    const wanted = { kind: 'cuda', memory_bytes: 8e10, node: null, standby: 0 };
    const request = { ...wanted, devices: 2, share: 1 };
    const starts_s = Date.now() / 1000 + 25;
    show(<Queue state={waiting({ starts_s, request })} words={words} run={run} current="" />);

    expect(host.textContent).toContain('2 GPUs, with 80 GB or more');
    expect(host.textContent).toMatch(/In about 2\d s, if no cell is run there until then\./);
  });

  it('says of which device a session wants a part', () => {
    const wanted = { devices: 1, memory_bytes: 0, node: 'node-a', standby: 0, share: 0.5 };
    show(
      <Queue
        state={waiting({ request: { ...wanted, kind: 'cuda' } })}
        words={words}
        run={run}
        current=""
      />
    );

    expect(host.textContent).toContain('0.5 of a GPU, on node-a');
  });

  it('admits that nobody can tell', () => {
    show(<Queue state={waiting({})} words={words} run={run} current="" />);

    expect(host.textContent).toContain('Nobody can tell how long it takes');
  });
});

describe('ServiceLine', () => {
  it('counts the nodes of a service elsewhere, also a single one', () => {
    const elsewhere = { embedded: false, url: 'https://gpu.example', user: 'ann' };
    const alone = reduce(reduce(NOTHING, { of: 'nodes', nodes: [node()] }), {
      of: 'service',
      service: service(elsewhere)
    });
    show(<ServiceLine state={alone} words={words} run={run} />);
    expect(host.textContent).toBe('1 node at https://gpu.example, as ann');

    const more = reduce(alone, { of: 'nodes', nodes: [node(), node({ id: 'node-b' })] });
    show(<ServiceLine state={more} words={words} run={run} />);
    expect(host.textContent).toBe('2 nodes at https://gpu.example, as ann');
  });

  it('offers to start a service that is off', () => {
    const state = reduce(NOTHING, { of: 'service', service: service({ state: 'off' }) });
    show(<ServiceLine state={state} words={words} run={run} />);

    act(() => button('Start it now').click());
    expect(run).toHaveBeenCalledWith('gpuaas:start-service');
  });

  it('says of a service that has ended that what is shown is from before', () => {
    const off = { of: 'service', service: service({ state: 'off' }) } as const;
    show(<ServiceLine state={reduce(stateOf(session()), off)} words={words} run={run} />);

    expect(host.textContent).toContain('does not run any more');
    act(() => button('Start it now').click());
    expect(run).toHaveBeenCalledWith('gpuaas:start-service');
  });

  it('says as an alert why the service cannot be reached', () => {
    const unreachable = service({ state: 'unreachable', problem: 'connection refused.' });
    show(<ServiceLine state={{ ...NOTHING, service: unreachable }} words={words} run={run} />);

    expect(host.querySelector('[role="alert"]')?.textContent).toContain('connection refused.');
  });
});

describe('a Jupyter server that does not answer', () => {
  it('is told of as an alert, before what is known of the service', () => {
    const before = reduce(NOTHING, { of: 'service', service: service() });
    const away = reduce(before, { of: 'away', time_s: 1000 });
    show(<ServiceLine state={away} words={words} run={run} />);
    expect(host.querySelector('[role="alert"]')?.textContent).toContain(
      'The Jupyter server has not answered since'
    );

    show(<ServiceLine state={reduce(away, { of: 'back' })} words={words} run={run} />);
    expect(host.querySelector('[role="alert"]')).toBeNull();
  });
});

describe('the chip', () => {
  const kernel: IKernel = {
    kernel_id: 'k',
    remote: true,
    session: { id: 's1', name: 'n', epoch: 1 },
    problem: ''
  };

  it('says node, device and fullness', () => {
    show(<ChipView {...chipFacts(stateOf(session()), words, kernel)} onClick={run} />);

    expect(host.querySelector('button')?.textContent).toBe('node-a · H200 0 · 34/141 GB');
    expect(host.querySelector('[role="status"]')?.textContent).toBe('idle');
  });

  it('says the place only, where that is set', () => {
    const facts = chipFacts(stateOf(session()), words, kernel, 'place');

    expect(facts).toMatchObject({ text: 'node-a · H200 0', level: null });
  });

  it('says that a kernel is local', () => {
    const facts = chipFacts(NOTHING, words, { ...kernel, remote: false, session: null });

    expect(facts).toMatchObject({ text: 'Local kernel', level: null });
  });

  it('says in few words that there is no session, and why where it is pointed at', () => {
    const problem = 'there is no node "x".';
    const facts = chipFacts(NOTHING, words, { ...kernel, session: null, problem });

    expect(facts).toMatchObject({ text: 'No session', title: problem });
  });

  it('follows a move', () => {
    const state = reduce(stateOf(session()), { of: 'migration', migration: migration() });

    expect(chipFacts(state, words, kernel)).toMatchObject({
      text: 'node-a → node-b: copying',
      spoken: 'Copying while you work'
    });
  });
});

describe('told', () => {
  it('leaves out cells, and says how long each state lasted', () => {
    const story = [
      event({ seq: 1, time_s: 0, source: '', target: 'queued' }),
      event({ seq: 2, time_s: 2, source: 'queued', target: 'starting' }),
      event({ seq: 3, time_s: 5, source: 'starting', target: 'idle' }),
      event({ seq: 4, time_s: 6, source: 'idle', target: 'busy' }),
      event({ seq: 5, time_s: 7, source: 'busy', target: 'idle' })
    ];

    expect(told(story).map(({ event: { target }, lasted_s }) => [target, lasted_s])).toEqual([
      ['idle', 1],
      ['starting', 3],
      ['queued', 2]
    ]);
  });
});
