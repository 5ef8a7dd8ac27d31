/** Says that the Jupyter server is back, and has the kernels of remote sessions connected again without a reload. */

import { Notification } from '@jupyterlab/apputils';
import type { INotebookTracker } from '@jupyterlab/notebook';

import type { IGpuaas } from '../tokens';

export class Reconnection {
  constructor(
    private readonly gpuaas: IGpuaas,
    private readonly tracker: INotebookTracker
  ) {
    this.returns = gpuaas.store.state.returns;
    gpuaas.store.changed.connect(this.look, this);
  }

  private look(): void {
    const { returns } = this.gpuaas.store.state;
    if (returns === this.returns) {
      return;
    }
    this.returns = returns;
    const { trans } = this.gpuaas.words;
    Notification.success(trans.__('The connection to the Jupyter server is back.'), {
      autoClose: 8000
    });
    this.tracker.forEach(panel => {
      const kernel = panel.sessionContext.session?.kernel;
      // JupyterLab tries a few times only, ever more rarely.
      if (kernel && kernel.connectionStatus !== 'connected') {
        void kernel.reconnect().catch(() => undefined);
      }
    });
  }

  private returns: number;
}
