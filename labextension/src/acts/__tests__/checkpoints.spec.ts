import { checkpoint, session, words } from '../../__tests__/facts';
import { NOTHING, reduce } from '../../model/state';
import type { IGpuaas } from '../../tokens';
import { forget, nameCheckpoint, restore, takeCheckpoint } from '../checkpoints';

const getText = jest.fn();
const showDialog = jest.fn();
const emit = jest.fn<string, [string, string]>(() => 'notice');
const changed = { connect: () => undefined, disconnect: () => undefined };

jest.mock('@jupyterlab/apputils', () => ({
  Dialog: {
    cancelButton: () => ({ label: 'Cancel', accept: false }),
    okButton: (options: object) => ({ accept: true, ...options }),
    warnButton: (options: object) => ({ accept: true, ...options }),
    translator: { load: () => ({ __: (text: string) => text }) }
  },
  InputDialog: { getText: (options: object) => getText(options) },
  Notification: {
    emit: (message: string, type: string) => emit(message, type),
    update: () => undefined,
    dismiss: () => undefined
  },
  showDialog: (options: object) => showDialog(options)
}));

const client = {
  takeCheckpoint: jest.fn(async (_: string, label: string) => checkpoint({ label })),
  name: jest.fn(async () => checkpoint()),
  forget: jest.fn(async () => checkpoint()),
  restore: jest.fn(async () => ({ checkpoint: checkpoint(), names: 5, lost: {}, session: '' })),
  beginFrom: jest.fn(async () => ({ checkpoint: checkpoint(), names: 5, lost: {}, session: 's1' }))
};
const gpuaas = {
  words,
  client,
  store: { changed, state: reduce(NOTHING, { of: 'sessions', sessions: [session()], since: 0 }) },
  feed: { refresh: async () => undefined, refreshSession: async () => undefined }
} as unknown as IGpuaas;
const ref = { id: 'c1', name: 'before', cell: '3' };

/** What the notices have said, in their order. */
const said = (): string[] => emit.mock.calls.map(([message]) => message);

beforeEach(() => jest.clearAllMocks());

function types(value: string | null): void {
  getText.mockResolvedValueOnce({ button: { accept: value !== null }, value });
}

function presses(label: string): void {
  showDialog.mockImplementationOnce(async ({ buttons }) => ({
    button: buttons.find((each: { label: string }) => each.label === label)
  }));
}

describe('taking a checkpoint', () => {
  it('takes it under the name that was typed, and says what it has become', async () => {
    types('  before the run ');
    await takeCheckpoint(gpuaas, 's1');

    expect(getText.mock.calls[0]?.[0]).toMatchObject({
      title: 'Checkpoint of train.ipynb',
      text: ''
    });
    expect(client.takeCheckpoint).toHaveBeenCalledWith('s1', 'before the run', expect.any(String));
    expect(said().at(-1)).toMatch(/^Checkpoint “before the run” taken after cell 3: 2.0 MB in /);
  });

  it('takes one without a name', async () => {
    types('');
    await takeCheckpoint(gpuaas, 's1');

    expect(client.takeCheckpoint).toHaveBeenCalledWith('s1', '', expect.any(String));
    expect(said().at(-1)).toMatch(/^Checkpoint taken after cell 3: /);
  });

  it('takes none where the user has thought better of it', async () => {
    types(null);
    await takeCheckpoint(gpuaas, 's1');

    expect(client.takeCheckpoint).not.toHaveBeenCalled();
    expect(said()).toEqual([]);
  });

  it('says why there is none, in a notice of an error', async () => {
    types('');
    client.takeCheckpoint.mockRejectedValueOnce(new Error('the disk is full.'));
    await takeCheckpoint(gpuaas, 's1');

    expect(emit.mock.calls.at(-1)).toEqual(['the disk is full.', 'error']);
  });
});

describe('naming a checkpoint', () => {
  it('begins with the name that it has, and changes it', async () => {
    types('after');
    await nameCheckpoint(gpuaas, 's1', ref);

    expect(getText.mock.calls[0]?.[0]).toMatchObject({ text: 'before', okLabel: 'Name it' });
    expect(client.name).toHaveBeenCalledWith('s1', 'c1', 'after');
  });

  it('can take the name away', async () => {
    types(' ');
    await nameCheckpoint(gpuaas, 's1', ref);

    expect(client.name).toHaveBeenCalledWith('s1', 'c1', '');
  });

  it.each(['before', ' before ', null])(
    'asks the service for nothing where it stays: %j',
    async typed => {
      types(typed);
      await nameCheckpoint(gpuaas, 's1', ref);

      expect(client.name).not.toHaveBeenCalled();
    }
  );
});

describe('restoring a checkpoint', () => {
  it('restores it into the session itself', async () => {
    presses('Restore here');
    await restore(gpuaas, 's1', ref);

    expect(client.restore).toHaveBeenCalledWith('s1', 'c1', expect.any(String));
    expect(said().at(-1)).toBe('5 variables were restored, as after cell 3.');
  });

  it('begins a new session with it, under a name of its own', async () => {
    presses('Begin a new session with it');
    await restore(gpuaas, 's1', ref);

    const name = (client.beginFrom.mock.calls[0] as unknown[])[2];
    expect(name).toMatch(/^\/books\/ann\/train\.ipynb \(c1 [0-9a-f]{4}\)$/);
  });

  it('does nothing where it was cancelled', async () => {
    presses('Cancel');
    await restore(gpuaas, 's1', ref);

    expect(client.restore).not.toHaveBeenCalled();
    expect(client.beginFrom).not.toHaveBeenCalled();
  });
});

describe('forgetting a checkpoint', () => {
  it.each([
    ['Forget', 1],
    ['Cancel', 0]
  ])('asks before: %s', async (label, times) => {
    presses(label);
    await forget(gpuaas, 's1', ref);

    expect(client.forget).toHaveBeenCalledTimes(times);
  });
});
