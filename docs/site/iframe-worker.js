// Pages opened from a folder may start no Worker, which the search runs in: a hidden frame takes its place.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.documentElement.append(this.frame)
      const inner = this.frame.contentWindow
      inner.postMessage = data => {
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        this.onmessage?.(event)
      }
      const script = inner.document.createElement("script")
      script.src = new URL(url, location.href)
      this.ready = new Promise(resolve => { script.onload = resolve })
      inner.document.documentElement.append(script)
    }
    postMessage(data) {
      const inner = this.frame.contentWindow
      this.ready.then(() => inner?.dispatchEvent(new inner.MessageEvent("message", { data })))
    }
    terminate() {
      this.frame.remove()
    }
  }
}
