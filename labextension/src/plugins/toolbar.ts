import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { IToolbarWidgetRegistry } from '@jupyterlab/apputils';
import type { NotebookPanel } from '@jupyterlab/notebook';

import { CommandIds } from '../command_ids';
import { Chip } from '../notebook/chip';
import { IGpuaas } from '../tokens';

export const toolbarPlugin: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpuaas:toolbar',
  description: 'Says in the toolbar of each notebook where it runs, beside a button to move it.',
  autoStart: true,
  requires: [IGpuaas, IToolbarWidgetRegistry],
  activate: (app: JupyterFrontEnd, gpuaas: IGpuaas, registry: IToolbarWidgetRegistry) => {
    registry.addFactory<NotebookPanel>(
      'Notebook',
      'gpuaas-chip',
      panel =>
        new Chip(gpuaas, gpuaas.attachment(panel), () => {
          if (app.commands.hasCommand(CommandIds.showPanel)) {
            void app.commands.execute(CommandIds.showPanel);
          }
        })
    );
  }
};
