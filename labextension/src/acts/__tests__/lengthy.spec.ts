import { PromiseDelegate } from '@lumino/coreutils';

import { service, words } from '../../__tests__/facts';
import { Store } from '../../model/store';
import type { IGpuaas } from '../../tokens';
import { lengthy } from '../lengthy';

interface INotice {
  readonly message: string;
  readonly type: string;
  readonly autoClose?: number | false;
  readonly actions?: ReadonlyArray<{ readonly callback: (event: MouseEvent) => void }>;
}

/** The notices that are there, by their ids; in place of JupyterLab's. */
const mockNotices = new Map<string, INotice>();

jest.mock('@jupyterlab/apputils', () => ({
  Dialog: { translator: { load: () => ({ __: (text: string) => text }) } },
  Notification: {
    emit: (message: string, type: string, options: object) => {
      const id = `${mockNotices.size} ${message}`;
      mockNotices.set(id, { message, type, ...options });
      return id;
    },
    update: ({ id, ...changed }: { id: string }) => {
      mockNotices.set(id, { ...(mockNotices.get(id) as INotice), ...changed });
    },
    dismiss: (id: string) => mockNotices.delete(id)
  }
}));

const store = new Store();
const gpuaas = { store, words } as unknown as IGpuaas;

/** The one notice that there is. */
function notice(): INotice {
  const [found, ...others] = mockNotices.values();
  if (found === undefined || others.length > 0) {
    throw new Error(`${mockNotices.size} notices`);
  }
  return found;
}

function begin(work: Promise<string>, act: () => Promise<unknown>, doing = () => 'working') {
  const done = (result: string): string => `got ${result}`;
  const giveUp = { caption: '', act, done: 'given up' };
  return lengthy(gpuaas, { doing, work: () => work, done, giveUp });
}

function press(): void {
  notice().actions?.[0]?.callback(new MouseEvent('click'));
}

beforeEach(() => jest.useFakeTimers());

afterEach(() => {
  jest.useRealTimers();
  mockNotices.clear();
});

test('what is being done is told anew with each piece of news, and then how it went', async () => {
  const work = new PromiseDelegate<string>();
  let far = 'a little';
  const ended = begin(work.promise, jest.fn(), () => far);
  expect([notice().type, notice().message]).toEqual(['in-progress', 'a little']);
  jest.advanceTimersByTime(1000);
  far = 'nearly';
  store.tell({ of: 'service', service: service({ nodes: 7 }) });
  expect(notice().message).toBe('nearly');
  work.resolve('it');
  expect(await ended).toBe('it');
  expect([notice().type, notice().message]).toEqual(['success', 'got it']);
  far = 'again';
  store.tell({ of: 'service', service: service({ nodes: 8 }) });
  expect(notice().message).toBe('got it');
});

test('what was given up is no failure', async () => {
  const work = new PromiseDelegate<string>();
  const ended = begin(work.promise, async () => work.reject(new Error('it was given up')));
  press();
  expect(await ended).toBeNull();
  expect([notice().type, notice().message]).toEqual(['success', 'given up']);
});

test('what fails by itself is one, and stays', async () => {
  expect(await begin(Promise.reject(new Error('no room')), jest.fn())).toBeNull();
  expect([notice().type, notice().message]).toEqual(['error', 'no room']);
  expect(notice().autoClose).toBe(false);
});

test('what cannot be given up goes on, and it is said why', async () => {
  const work = new PromiseDelegate<string>();
  const refusal = Promise.reject(new Error('too late'));
  const ended = begin(work.promise, () => refusal);
  press();
  await refusal.catch(() => undefined);
  await Promise.resolve();
  const said = [...mockNotices.values()].map(each => each.message);
  expect(said.sort()).toEqual(['too late', 'working']);
  work.resolve('it');
  expect(await ended).toBe('it');
});
