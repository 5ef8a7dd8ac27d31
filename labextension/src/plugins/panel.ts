import {
  ILayoutRestorer,
  type JupyterFrontEnd,
  type JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';

import { CommandIds } from '../command_ids';
import { GpuaasPanel, PANEL_ID } from '../panel/side_panel';
import { IGpuaas } from '../tokens';

/** Among the side panels; 501 to 899 are for extensions. */
const RANK = 610;

export const panelPlugin: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpuaas:panel',
  description:
    'A side panel with the sessions, the nodes, the queue, the checkpoints and the story.',
  autoStart: true,
  requires: [IGpuaas],
  optional: [ILayoutRestorer, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    gpuaas: IGpuaas,
    restorer: ILayoutRestorer | null,
    translator: ITranslator | null
  ) => {
    const { commands, shell } = app;
    const panel = new GpuaasPanel(
      gpuaas,
      (command, args) => void commands.execute(command, { ...args }),
      translator ?? nullTranslator
    );
    shell.add(panel, 'left', { rank: RANK, type: 'Remote Sessions' });
    restorer?.add(panel, PANEL_ID);
    commands.addCommand(CommandIds.showPanel, {
      label: gpuaas.words.trans.__('Show Remote Sessions'),
      describedBy: { args: { type: 'object', properties: {} } },
      execute: () => shell.activateById(PANEL_ID)
    });
  }
};
