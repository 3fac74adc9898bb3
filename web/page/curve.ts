// The losses of a run as a picture.

const [WIDTH, HEIGHT, LEFT, BOTTOM] = [640, 220, 48, 24];
/** Weight of the last loss in the average. */
const SMOOTHING = 0.2;

interface Point {
  readonly step: number;
  readonly loss: number;
}

/** A curve that grows. */
export class Curve {
  private readonly losses: Point[] = [];
  private readonly held: Point[] = [];
  private isDrawn = false;

  constructor(
    private readonly svg: SVGSVGElement,
    private readonly of: number,
  ) {
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.draw();
  }

  add(point: Point): void {
    this.losses.push(point);
    this.soon();
  }

  addHeld(point: Point): void {
    this.held.push(point);
    this.soon();
  }

  private soon(): void {
    if (this.isDrawn) return;
    this.isDrawn = true;
    requestAnimationFrame(() => {
      this.isDrawn = false;
      this.draw();
    });
  }

  private draw(): void {
    const all = [...this.losses, ...this.held].map(({ loss }) => loss).filter(Number.isFinite);
    const [low, high] = all.length > 0 ? [Math.min(...all), Math.max(...all)] : [0, 1];
    const span = high - low || 1;
    const x = (step: number) => LEFT + ((WIDTH - LEFT - 8) * step) / Math.max(this.of, 1);
    const y = (loss: number) => 8 + (HEIGHT - BOTTOM - 16) * (1 - (loss - low) / span);
    const line = (points: readonly Point[]) => points.map(({ step, loss }) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(" ");
    let average = this.losses[0]?.loss ?? 0;
    const smooth = this.losses.map(({ step, loss }) => ({ step, loss: (average += SMOOTHING * (loss - average)) }));
    const ticks = [low, low + span / 2, low + span].map((loss) =>
      `<line x1="${LEFT}" x2="${WIDTH - 8}" y1="${y(loss)}" y2="${y(loss)}" class="grid"/><text x="${LEFT - 6}" y="${y(loss) + 4}" text-anchor="end">${loss.toPrecision(3)}</text>`);
    const steps = [0, this.of].map((step) => `<text x="${x(step)}" y="${HEIGHT - 6}" text-anchor="${step === 0 ? "start" : "end"}">${step}</text>`);
    const dots = this.held.map(({ step, loss }) => `<circle cx="${x(step)}" cy="${y(loss)}" r="4" class="held"/>`);
    this.svg.innerHTML = [...ticks, ...steps, `<polyline points="${line(this.losses)}" class="loss"/>`, `<polyline points="${line(smooth)}" class="smooth"/>`, `<polyline points="${line(this.held)}" class="held"/>`, ...dots].join("");
  }
}
