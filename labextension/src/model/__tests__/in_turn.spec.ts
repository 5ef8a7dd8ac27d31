import { InTurn } from '../in_turn';

/** A question whose answer comes when it is let. */
function slow(): { readonly ask: jest.Mock<Promise<void>, []>; answer(): Promise<void> } {
  const waiting: Array<() => void> = [];
  return {
    ask: jest.fn(() => new Promise<void>(resolve => waiting.push(resolve))),
    answer: async () => {
      waiting.shift()?.();
      await settled();
    }
  };
}

async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) {
    await Promise.resolve();
  }
}

describe('InTurn', () => {
  it('asks once more for all the news that came while it waited for an answer', async () => {
    const turns = new InTurn();
    const { ask, answer } = slow();
    for (let news = 0; news < 5; news++) {
      turns.ask('s1', ask);
    }
    expect(ask).toHaveBeenCalledTimes(1);

    await answer();
    expect(ask).toHaveBeenCalledTimes(2);

    await answer();
    expect(ask).toHaveBeenCalledTimes(2);
    turns.ask('s1', ask);
    expect(ask).toHaveBeenCalledTimes(3);
  });

  it('lets questions about different things not wait for each other', () => {
    const turns = new InTurn();
    const one = slow();
    const other = slow();

    turns.ask('s1', one.ask);
    turns.ask('s2', other.ask);

    expect(one.ask).toHaveBeenCalledTimes(1);
    expect(other.ask).toHaveBeenCalledTimes(1);
  });

  it('asks nothing more after its end', async () => {
    const turns = new InTurn();
    const { ask, answer } = slow();
    turns.ask('s1', ask);
    turns.ask('s1', ask);

    turns.end();
    await answer();

    expect(ask).toHaveBeenCalledTimes(1);
  });
});
