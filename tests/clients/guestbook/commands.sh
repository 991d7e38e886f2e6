make client NAME=guestbook
make apply
make client-url NAME=guestbook TO="$APP/secrets"
docker compose build
docker compose run --rm migrate django-admin startproject guestbook .
docker compose run --rm migrate python manage.py makemigrations guestbook
docker compose run --rm migrate
docker compose up --detach --wait web
curl --silent --show-error --data text=hello "http://$(docker compose port web 8000)/"
