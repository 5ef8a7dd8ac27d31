/** What a person can do with a session: release, park, wake, interrupt. */

import { Dialog, showDialog } from '@jupyterlab/apputils';

import { Problem, wordsOf } from '../api/problem';
import type { IGpuaas } from '../tokens';
import { sessionTitle } from '../words/names';
import { telling, trying } from './tell';

/** So many requests to end sessions are under way together. */
const AT_ONCE = 4;

export function titleOf(gpuaas: IGpuaas, session: string): string {
  const name = gpuaas.store.state.sessions.get(session)?.name;
  return name === undefined ? session : sessionTitle(name);
}

/** Ends a session, after asking: its variables are gone then. */
export async function release(gpuaas: IGpuaas, session: string): Promise<void> {
  const { trans } = gpuaas.words;
  const title = titleOf(gpuaas, session);
  const { button } = await showDialog({
    title: trans.__('Release %1?', title),
    body: trans.__(
      'This ends the session: its variables are gone, and its device is free for others. Its checkpoints stay.'
    ),
    buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: trans.__('Release') })]
  });
  if (button.accept) {
    await releaseNow(gpuaas, session);
  }
}

export async function releaseNow(gpuaas: IGpuaas, session: string): Promise<void> {
  const { trans } = gpuaas.words;
  const title = titleOf(gpuaas, session);
  await telling(
    trans.__('Releasing %1…', title),
    () => gpuaas.client.release(session),
    () => trans.__('%1 was released.', title)
  );
  await gpuaas.feed.refreshSession(session);
}

/** Ends all of them, with one notice. */
export async function releaseAll(gpuaas: IGpuaas, sessions: readonly string[]): Promise<void> {
  const { words, client, feed } = gpuaas;
  const { trans } = words;
  const left = [...sessions];
  let released = 0;
  let problem: unknown = null;
  const some = async (): Promise<void> => {
    for (let session = left.shift(); session !== undefined; session = left.shift()) {
      try {
        await client.release(session);
        released += 1;
      } catch (error) {
        problem ??= error;
      }
    }
  };
  await telling(
    trans._n('Releasing %1 session…', 'Releasing %1 sessions…', sessions.length),
    async () => {
      await Promise.all(Array.from({ length: AT_ONCE }, some));
      if (problem !== null) {
        throw new Error(
          words.sentences(
            trans.__('%1 of %2 sessions were released.', released, sessions.length),
            wordsOf(problem)
          )
        );
      }
    },
    () => trans._n('%1 session was released.', '%1 sessions were released.', released)
  );
  await feed.refresh();
}

/** Gives a session's devices back and keeps it; asks where names would be lost. */
export async function park(gpuaas: IGpuaas, session: string): Promise<void> {
  const { trans } = gpuaas.words;
  const title = titleOf(gpuaas, session);
  const lost = Object.keys(gpuaas.store.state.checkpoints.get(session)?.last?.lost ?? {});
  if (lost.length > 0) {
    const { button } = await showDialog({
      title: trans.__('Park %1?', title),
      body: trans.__('These names do not survive it: %1', lost.join(', ')),
      buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: trans.__('Park') })]
    });
    if (!button.accept) {
      return;
    }
  }
  await telling(
    trans.__('Parking %1…', title),
    () => gpuaas.client.park(session, lost.length > 0),
    () => trans.__('%1 is parked. Its next cell brings it back.', title)
  );
  await gpuaas.feed.refreshSession(session);
}

export async function wake(gpuaas: IGpuaas, session: string): Promise<void> {
  await trying(() => gpuaas.client.wake(session));
  await gpuaas.feed.refreshSession(session);
}

/** Begin to give a migration up; what becomes of it is told by its events. */
export async function cancelMigration(
  gpuaas: IGpuaas,
  session: string,
  migration: string
): Promise<void> {
  await trying(async () => {
    try {
      await gpuaas.client.cancelMigration(session, migration);
    } catch (error) {
      // Over already: how, was told.
      if (!(error instanceof Problem && error.status === 422)) {
        throw error;
      }
    }
  });
}
