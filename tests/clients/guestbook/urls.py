from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from guestbook.models import Entry


@csrf_exempt  # so that curl can write; a form would carry a token
def page(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        Entry.objects.create(text=request.POST["text"])
    entries = Entry.objects.order_by("-id")[:10]
    return HttpResponse("".join(f"{one.text}\n" for one in entries), content_type="text/plain")


urlpatterns = [path("", page)]
