import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ReactWidget } from '@jupyterlab/ui-components';
import { Signal } from '@lumino/signaling';
import * as React from 'react';

import { CommandIds } from '../command_ids';
import { liveSessions } from '../model/select';
import { IGpuaas } from '../tokens';

/** In the status bar: how many sessions there are, wherever the notebook in front runs. */
class Status extends ReactWidget {
  constructor(
    private readonly gpuaas: IGpuaas,
    private readonly onClick: () => void
  ) {
    super();
    gpuaas.store.changed.connect(this.again, this);
  }

  override dispose(): void {
    Signal.clearData(this);
    super.dispose();
  }

  get isShown(): boolean {
    return liveSessions(this.gpuaas.store.state).length > 0;
  }

  protected override render(): JSX.Element {
    const { words, store } = this.gpuaas;
    const { trans } = words;
    const sessions = liveSessions(store.state);
    const waiting = sessions.filter(session => session.state === 'queued').length;
    const count = trans._n('%1 remote session', '%1 remote sessions', sessions.length);
    return (
      <button
        type="button"
        className="jp-gpuaas-status"
        title={trans.__('Show Remote Sessions')}
        onClick={this.onClick}
      >
        {waiting > 0 ? trans.__('%1, %2 waiting', count, waiting) : count}
      </button>
    );
  }

  private again(): void {
    this.update();
  }
}

export const statusPlugin: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpuaas:status',
  description: 'Says in the status bar how many remote sessions there are.',
  autoStart: true,
  requires: [IGpuaas],
  optional: [IStatusBar],
  activate: (app: JupyterFrontEnd, gpuaas: IGpuaas, bar: IStatusBar | null) => {
    if (bar === null) {
      return;
    }
    const item = new Status(gpuaas, () => {
      if (app.commands.hasCommand(CommandIds.showPanel)) {
        void app.commands.execute(CommandIds.showPanel);
      }
    });
    bar.registerStatusItem('jupyter-gpuaas:status', {
      item,
      align: 'left',
      rank: 5,
      isActive: () => item.isShown,
      activeStateChanged: gpuaas.store.changed as never
    });
  }
};
