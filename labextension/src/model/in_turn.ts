/** Questions that are asked one at a time: news that comes while one is under way has it asked once more. */

export class InTurn {
  /**
   * Ask, or ask again when the answer to the one before has come.
   *
   * Many news while an answer is waited for cost one question more, and answers never overtake each other.
   *
   * @param about - What the question is about; those about different things do not wait for each other.
   * @param question - Must not reject.
   */
  ask(about: string, question: () => Promise<unknown>): void {
    if (this.underWay.has(about)) {
      this.underWay.set(about, question);
      return;
    }
    this.underWay.set(about, null);
    void question().finally(() => {
      const next = this.underWay.get(about) ?? null;
      this.underWay.delete(about);
      if (next !== null && !this.isOver) {
        this.ask(about, next);
      }
    });
  }

  /** Ask nothing more. */
  end(): void {
    this.isOver = true;
  }

  /** What is being asked about, with what is to be asked next. */
  private readonly underWay = new Map<string, (() => Promise<unknown>) | null>();
  private isOver = false;
}
