import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { INotebookTracker, type NotebookPanel } from '@jupyterlab/notebook';

import { MissedOutputs } from '../notebook/missed';
import { Recovery } from '../notebook/recovery';
import { IGpuaas } from '../tokens';

export const outputsPlugin: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpuaas:outputs',
  description: 'Fills in the outputs that a notebook missed while its session ran on without it.',
  autoStart: true,
  requires: [IGpuaas, INotebookTracker],
  activate: (_: JupyterFrontEnd, gpuaas: IGpuaas, tracker: INotebookTracker) => {
    each(tracker, panel => new MissedOutputs(panel, gpuaas.attachment(panel), gpuaas));
  }
};

export const recoveryPlugin: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpuaas:recovery',
  description:
    'Says in a notebook what the loss of its node has cost, and runs again what is wanted.',
  autoStart: true,
  requires: [IGpuaas, INotebookTracker],
  activate: (_: JupyterFrontEnd, gpuaas: IGpuaas, tracker: INotebookTracker) => {
    each(tracker, panel => new Recovery(panel, gpuaas.attachment(panel), gpuaas));
  }
};

/** Do something with each notebook that is open, or will be. */
function each(tracker: INotebookTracker, work: (panel: NotebookPanel) => unknown): void {
  tracker.forEach(panel => void work(panel));
  tracker.widgetAdded.connect((_, panel) => void work(panel));
}
