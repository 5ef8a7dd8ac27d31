import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { IRunningSessionManagers } from '@jupyterlab/running';
import { Signal } from '@lumino/signaling';

import type { ISession } from '../api/types';
import { releaseAll, releaseNow } from '../acts/sessions';
import { CommandIds } from '../command_ids';
import { gpuIcon } from '../icons';
import { liveSessions } from '../model/select';
import { IGpuaas } from '../tokens';
import { place } from '../words/devices';
import { sessionTitle } from '../words/names';

export const runningPlugin: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpuaas:running',
  description:
    'Lists remote sessions among what runs, also those without a client, and releases them.',
  autoStart: true,
  requires: [IGpuaas],
  optional: [IRunningSessionManagers],
  activate: (app: JupyterFrontEnd, gpuaas: IGpuaas, managers: IRunningSessionManagers | null) => {
    if (managers === null) {
      return;
    }
    const { words, store, feed } = gpuaas;
    const { trans } = words;
    const runningChanged = new Signal<unknown, unknown>(gpuaas);
    let shown = store.state.sessions;
    store.changed.connect((_, { sessions }) => {
      if (sessions !== shown) {
        shown = sessions;
        runningChanged.emit(null);
      }
    });
    const item = (session: ISession) => ({
      open: () => void app.commands.execute(CommandIds.open, { session: session.id }),
      shutdown: () => void releaseNow(gpuaas, session.id),
      icon: () => gpuIcon,
      label: () => sessionTitle(session.name),
      labelTitle: () => session.name,
      detail: () => {
        const node =
          session.lease === null ? undefined : store.state.nodes.get(session.lease.node_id);
        return session.lease === null ? words.state(session) : place(session, node, words);
      }
    });
    managers.add({
      name: trans.__('Remote Sessions'),
      supportsMultipleViews: false,
      running: () => liveSessions(store.state).map(item),
      shutdownAll: () =>
        void releaseAll(
          gpuaas,
          liveSessions(store.state).map(({ id }) => id)
        ),
      refreshRunning: () => void feed.refresh(),
      runningChanged,
      shutdownLabel: trans.__('Release'),
      shutdownAllLabel: trans.__('Release All'),
      shutdownAllConfirmationText: trans.__(
        'Are you sure that you want to release all remote sessions? Their variables are gone then.'
      )
    });
  }
};
