/** Everything that a person can do, as commands: for buttons, menus, palette and shortcuts. */

import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';

import { forget, nameCheckpoint, restore, takeCheckpoint } from '../acts/checkpoints';
import { cordon, drain, stopDrain } from '../acts/nodes';
import { attach, openNotebook } from '../acts/open';
import { cancelMigration, park, release, wake } from '../acts/sessions';
import { trying } from '../acts/tell';
import { CommandIds } from '../command_ids';
import { moveIcon } from '../icons';
import { askAndMove } from '../migrate/ask';
import { isReversible } from '../model/phases';
import { hasElsewhere, isMovable } from '../model/select';
import { IGpuaas } from '../tokens';
import type { ISession } from '../api/types';
import type { ICheckpointRef } from '../words/trans';

/** JSON schema of the arguments of commands for nodes. */
const NODE = {
  args: {
    type: 'object',
    properties: { node: { type: 'string', description: 'Id of the node.' } }
  }
};

/** JSON schema of the arguments of most commands. */
const SESSION = {
  args: {
    type: 'object',
    properties: {
      session: {
        type: 'string',
        description: 'Id of the session; that of the notebook in front if left out.'
      }
    }
  }
};

/** JSON schema of the arguments of commands for checkpoints. */
const CHECKPOINT = {
  args: {
    type: 'object',
    properties: {
      ...SESSION.args.properties,
      checkpoint: { type: 'string', description: 'Id of the checkpoint.' },
      name: { type: 'string', description: 'Its name, if it has one.' },
      cell: { type: 'string', description: 'Number of the cell after which it was taken.' }
    }
  }
};

export const commandsPlugin: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpuaas:commands',
  description: 'Commands for remote sessions.',
  autoStart: true,
  requires: [IGpuaas],
  optional: [ICommandPalette],
  activate: (app: JupyterFrontEnd, gpuaas: IGpuaas, palette: ICommandPalette | null) => {
    const { commands } = app;
    const { trans } = gpuaas.words;

    /** The session that a command is about: named, or that of the notebook in front. */
    const meant = (args: ReadonlyPartialJSONObject): string =>
      typeof args['session'] === 'string' ? args['session'] : (gpuaas.current?.sessionId ?? '');
    const found = (args: ReadonlyPartialJSONObject): ISession | undefined =>
      gpuaas.store.state.sessions.get(meant(args));
    const text = (args: ReadonlyPartialJSONObject, name: string): string =>
      String(args[name] ?? '');
    const checkpoint = (args: ReadonlyPartialJSONObject): ICheckpointRef => ({
      id: text(args, 'checkpoint'),
      name: text(args, 'name'),
      cell: text(args, 'cell')
    });
    const movable = (args: ReadonlyPartialJSONObject): boolean => {
      const session = found(args);
      return session !== undefined && isMovable(session);
    };

    commands.addCommand(CommandIds.migrate, {
      label: trans.__('Move the Session…'),
      caption: trans.__('Move the session of this notebook to another node, and go on there'),
      icon: moveIcon,
      isEnabled: movable,
      // One machine alone has nowhere to move to, and needs no button for it.
      isVisible: () => hasElsewhere(gpuaas.store.state),
      describedBy: SESSION,
      execute: args => trying(() => askAndMove(gpuaas, meant(args)))
    });
    commands.addCommand(CommandIds.migrateKernel, {
      label: trans.__('Move the Session…'),
      icon: moveIcon,
      isVisible: () => hasElsewhere(gpuaas.store.state) && kernelUnderMouse(app) !== null,
      describedBy: { args: { type: 'object', properties: {} } },
      execute: async () => {
        const kernel = kernelUnderMouse(app);
        const answer = kernel === null ? null : await trying(() => gpuaas.client.kernel(kernel));
        const session = answer?.session;
        if (session) {
          await trying(() => askAndMove(gpuaas, session.id));
        } else if (answer !== null) {
          await trying(() =>
            Promise.reject(new Error(trans.__('This kernel has no remote session.')))
          );
        }
      }
    });
    commands.addCommand(CommandIds.cancelMigration, {
      label: trans.__('Cancel the Move'),
      describedBy: SESSION,
      isEnabled: args => {
        const migration = gpuaas.store.state.migrations.get(meant(args));
        return migration !== undefined && isReversible(migration);
      },
      execute: args => {
        const session = meant(args);
        const migration = gpuaas.store.state.migrations.get(session)?.id ?? '';
        return cancelMigration(gpuaas, session, migration);
      }
    });
    commands.addCommand(CommandIds.checkpoint, {
      label: trans.__('Take a Checkpoint…'),
      caption: trans.__('Keep the variables as they are now, under a name'),
      isEnabled: movable,
      describedBy: SESSION,
      execute: args => takeCheckpoint(gpuaas, meant(args))
    });
    commands.addCommand(CommandIds.restore, {
      label: trans.__('Restore a Checkpoint…'),
      describedBy: CHECKPOINT,
      execute: args => restore(gpuaas, meant(args), checkpoint(args))
    });
    commands.addCommand(CommandIds.name, {
      label: trans.__('Name a Checkpoint…'),
      describedBy: CHECKPOINT,
      execute: args => nameCheckpoint(gpuaas, meant(args), checkpoint(args))
    });
    commands.addCommand(CommandIds.forget, {
      label: trans.__('Forget a Checkpoint…'),
      describedBy: CHECKPOINT,
      execute: args => forget(gpuaas, meant(args), checkpoint(args))
    });
    commands.addCommand(CommandIds.park, {
      label: trans.__('Park the Session'),
      caption: trans.__('Give its device back and keep the session; its next cell brings it back'),
      isEnabled: movable,
      describedBy: SESSION,
      execute: args => park(gpuaas, meant(args))
    });
    commands.addCommand(CommandIds.wake, {
      label: trans.__('Wake the Session'),
      isEnabled: args => found(args)?.state === 'parked',
      describedBy: SESSION,
      execute: args => wake(gpuaas, meant(args))
    });
    commands.addCommand(CommandIds.release, {
      label: trans.__('Release the Session…'),
      caption: trans.__('End the session and free its device'),
      isEnabled: args => found(args) !== undefined,
      describedBy: SESSION,
      execute: args => release(gpuaas, meant(args))
    });
    commands.addCommand(CommandIds.open, {
      label: trans.__('Open the Notebook of a Session'),
      describedBy: SESSION,
      execute: args => openNotebook(app, gpuaas, meant(args))
    });
    commands.addCommand(CommandIds.attach, {
      label: trans.__('Attach This Notebook to a Session'),
      describedBy: SESSION,
      execute: args => attach(gpuaas, meant(args))
    });
    commands.addCommand(CommandIds.cordon, {
      label: trans.__('Cordon a Node'),
      describedBy: NODE,
      execute: args => cordon(gpuaas, text(args, 'node'), true)
    });
    commands.addCommand(CommandIds.uncordon, {
      label: trans.__('Uncordon a Node'),
      describedBy: NODE,
      execute: args => cordon(gpuaas, text(args, 'node'), false)
    });
    commands.addCommand(CommandIds.drain, {
      label: trans.__('Drain a Node…'),
      describedBy: NODE,
      execute: args => drain(gpuaas, text(args, 'node'))
    });
    commands.addCommand(CommandIds.stopDrain, {
      label: trans.__('Stop the Drain of a Node'),
      describedBy: NODE,
      execute: args => stopDrain(gpuaas, text(args, 'node'))
    });
    commands.addCommand(CommandIds.startService, {
      label: trans.__('Start the Service for Remote Sessions'),
      isEnabled: () => gpuaas.store.state.service?.may_start ?? false,
      describedBy: { args: { type: 'object', properties: {} } },
      execute: () =>
        trying(async () => {
          gpuaas.store.tell({ of: 'service', service: await gpuaas.client.startService() });
        })
    });

    const told = [
      CommandIds.migrate,
      CommandIds.cancelMigration,
      CommandIds.checkpoint,
      CommandIds.park,
      CommandIds.wake,
      CommandIds.release,
      CommandIds.startService
    ];
    const again = (): void => told.forEach(id => commands.notifyCommandChanged(id));
    gpuaas.currentChanged.connect(again);
    gpuaas.store.changed.connect(again);
    for (const command of told) {
      palette?.addItem({ command, category: trans.__('Remote Sessions') });
    }
  }
};

/** Id of the kernel whose entry among the running ones the context menu was opened on. */
function kernelUnderMouse(app: JupyterFrontEnd): string | null {
  const node = app.contextMenuHitTest(
    each =>
      each.classList.contains('jp-RunningSessions-item') && each.classList.contains('jp-mod-kernel')
  );
  return node?.dataset['context'] ?? null;
}
