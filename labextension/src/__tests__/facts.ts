/** Facts for tests: complete ones, of which a test says only what it is about. */

import type { TranslationBundle } from '@jupyterlab/translation';

import type {
  ICheckpoint,
  ICheckpointStatus,
  IEvent,
  IMigration,
  IMissedCell,
  INode,
  IService,
  ISession
} from '../api/types';
import { Words } from '../words/trans';

function filled(text: string, values: readonly unknown[]): string {
  return values.reduce<string>(
    (all, value, index) => all.replaceAll(`%${index + 1}`, String(value)),
    text
  );
}

/** English, as JupyterLab does it without a language pack. */
export const english = {
  __: (text: string, ...values: unknown[]) => filled(text, values),
  _n: (one: string, many: string, count: number, ...values: unknown[]) =>
    filled(count === 1 ? one : many, [count, ...values])
} as unknown as TranslationBundle;

export const words = new Words(english);

export function session(facts: Partial<ISession> = {}): ISession {
  return {
    id: 's1',
    name: '/books/ann/train.ipynb',
    owner: 'ann',
    state: 'idle',
    epoch: 1,
    request: { devices: 1, kind: null, memory_bytes: 0, node: null, standby: 0, share: 1 },
    created_s: 1000,
    cause: '',
    lease: {
      id: 'l1',
      session_id: 's1',
      node_id: 'node-a',
      device_ids: ['cuda:0'],
      epoch: 1,
      share: 1
    },
    queue_place: 0,
    clients: 1,
    unattended_since_s: 0,
    last_event: 1,
    since_s: 1000,
    device_s: 0,
    devices_since_s: 0,
    parks_s: 0,
    ends_s: 0,
    starts_s: 0,
    ...facts
  };
}

export function node(facts: Partial<INode> = {}): INode {
  return {
    id: 'node-a',
    state: 'up',
    devices: [{ id: 'cuda:0', kind: 'cuda', label: 'NVIDIA H200', memory_bytes: 141e9 }],
    samples: [{ device_id: 'cuda:0', used_bytes: 34e9, utilisation: 0.5 }],
    used: {},
    drain: null,
    no_images: '',
    ...facts
  };
}

export function migration(facts: Partial<IMigration> = {}): IMigration {
  return {
    id: 'm1',
    session_id: 's1',
    source: 'node-a',
    target: 'node-b',
    phase: 'pre_copy',
    via: 'portable',
    cause: '',
    started_s: 1000,
    bytes_sent: 0,
    downtime_s: 0,
    total_s: 0,
    lost: {},
    ...facts
  };
}

export function event(facts: Partial<IEvent> = {}): IEvent {
  return {
    seq: 1,
    time_s: 1000,
    kind: 'transition',
    session_id: 's1',
    source: 'idle',
    target: 'busy',
    cause: '',
    epoch: 1,
    detail: {},
    ...facts
  };
}

export function checkpoint(facts: Partial<ICheckpoint> = {}): ICheckpoint {
  return {
    id: '20260101-000000-aaaabbbb',
    session: 's1',
    cell: 3,
    label: '',
    created_s: 1000,
    names: 5,
    host_bytes: 2e6,
    device_bytes: 0,
    written_bytes: 1e6,
    stall_s: 0.004,
    capture_s: 0.05,
    lost: {},
    rebuilt: {},
    ...facts
  };
}

export function status(facts: Partial<ICheckpointStatus> = {}): ICheckpointStatus {
  return {
    every: 1,
    taken: 1,
    failed: 0,
    waiting: 0,
    last: checkpoint(),
    problem: '',
    remark: '',
    progress: '',
    ...facts
  };
}

export function service(facts: Partial<IService> = {}): IService {
  return {
    state: 'ready',
    url: 'http://127.0.0.1:1',
    embedded: true,
    user: 'ann',
    role: 'admin',
    version: '0',
    problem: '',
    hint: '',
    nodes: 1,
    may_start: true,
    ...facts
  };
}

export function missedCell(facts: Partial<IMissedCell> = {}): IMissedCell {
  return {
    cell_id: 'c1',
    msg_id: 'q1',
    number: 10,
    last: 20,
    code: '1',
    execution_count: 4,
    started_s: 1000,
    ended_s: 1001,
    status: 'ok',
    outputs: [],
    display_ids: {},
    dropped_bytes: 0,
    ...facts
  };
}
