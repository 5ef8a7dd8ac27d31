import type { ISessionContext } from '@jupyterlab/apputils';
import { Signal } from '@lumino/signaling';

import type { Client } from '../../api/client';
import type { IKernel } from '../../api/types';
import { Attachment } from '../attachment';
import type { Feed } from '../feed';

class FakeContext {
  readonly kernelChanged = new Signal<FakeContext, void>(this);
  readonly statusChanged = new Signal<FakeContext, void>(this);
  readonly disposed = new Signal<FakeContext, void>(this);
  session: { kernel: { id: string } } | null = { kernel: { id: 'k1' } };
  kernelDisplayStatus = 'idle';

  is(status: string): void {
    this.kernelDisplayStatus = status;
    this.statusChanged.emit();
  }
}

const remote = (session: string | null, kernel_id = 'k1'): IKernel => ({
  kernel_id,
  remote: true,
  session: session === null ? null : { id: session, name: 'n', epoch: 1 },
  problem: ''
});

async function begun(first: IKernel) {
  const context = new FakeContext();
  const kernel = jest.fn(() => Promise.resolve(first));
  const refreshSession = jest.fn(async () => undefined);
  const attachment = new Attachment(
    context as unknown as ISessionContext,
    { kernel } as unknown as Client,
    { refreshSession } as unknown as Feed
  );
  await jest.advanceTimersByTimeAsync(0);
  return { context, kernel, refreshSession, attachment };
}

beforeEach(() => jest.useFakeTimers());
afterEach(() => jest.useRealTimers());

describe('Attachment', () => {
  it('knows the session, and has it asked for', async () => {
    const { attachment, refreshSession } = await begun(remote('s1'));

    expect(attachment.sessionId).toBe('s1');
    expect(refreshSession).toHaveBeenCalledWith('s1');
    attachment.dispose();
  });

  it('asks again while there is no session yet', async () => {
    const { attachment, kernel } = await begun(remote(null));
    kernel.mockResolvedValue(remote('s1'));

    await jest.advanceTimersByTimeAsync(2500);

    expect(attachment.sessionId).toBe('s1');
    attachment.dispose();
  });

  it('finds the new session of a kernel that was restarted', async () => {
    const { context, kernel, attachment } = await begun(remote('s1'));

    context.is('restarting'); // The former proxy still answers.
    await jest.advanceTimersByTimeAsync(0);
    expect(attachment.sessionId).toBe('s1');

    kernel.mockResolvedValue(remote('s2'));
    context.is('starting');
    context.is('idle');
    await jest.advanceTimersByTimeAsync(0);
    expect(attachment.sessionId).toBe('s2');
    attachment.dispose();
  });

  it('does not ask with each cell that runs', async () => {
    const { context, kernel, attachment } = await begun(remote('s1'));
    kernel.mockClear();

    context.is('busy');
    context.is('idle');

    expect(kernel).not.toHaveBeenCalled();
    attachment.dispose();
  });

  it('passes over the answer about a kernel that the notebook has no more', async () => {
    const { context, kernel, attachment } = await begun(remote('s1'));
    let tell: (kernel: IKernel) => void = () => undefined;
    kernel.mockImplementationOnce(() => new Promise(resolve => (tell = resolve)));
    context.is('restarting');
    context.session = { kernel: { id: 'k2' } };
    kernel.mockResolvedValue(remote('s2', 'k2'));
    context.kernelChanged.emit();
    await jest.advanceTimersByTimeAsync(0);

    tell(remote('s1'));
    await jest.advanceTimersByTimeAsync(0);

    expect(attachment.sessionId).toBe('s2');
    attachment.dispose();
  });

  it('asks nothing more when its notebook is closed', async () => {
    const { context, kernel } = await begun(remote(null));
    kernel.mockClear();

    context.disposed.emit();
    await jest.advanceTimersByTimeAsync(120_000);

    expect(kernel).not.toHaveBeenCalled();
  });
});
